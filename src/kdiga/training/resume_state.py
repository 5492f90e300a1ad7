"""A run in the middle: everything needed to go on as if it had never stopped."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiga.errors import InputError, reason_of
from kdiga.io.atomic_write import replacing
from kdiga.methods import Method
from kdiga.models.checkpoint import check_sums
from kdiga.training.resume_checks import check_form
from kdiga.training.settings import TrainingSettings
from kdiga.types import ThreatModel

FILE = "state.pt"
FORMAT = "4"
FREE = ("training.accumulate", "training.save_every")  # settings that a run may be continued with other values of


@dataclass
class Progress:
    """How far a run is.

    Args:
        epoch: in which it is, from 0.
        position: batches of it that are done.
        spent: seconds that they took.
        best_epoch: the epoch, from 0, whose weights were best so far.
        best_score: theirs.
        best_state: those weights, on the CPU.
        seconds: of all finished epochs.
    """

    epoch: int = 0
    position: int = 0
    spent: float = 0.0
    best_epoch: int = 0
    best_score: float = -1.0
    best_state: dict[str, Tensor] | None = None
    seconds: float = 0.0


def identity_of(
    method: Method, threat: ThreatModel, settings: TrainingSettings, views: int | None
) -> dict[str, str | None]:
    """Return what an interrupted run and the one that continues it have to agree on: values by a recipe's keys."""
    return {
        "state format": FORMAT,
        "method": method.info.name,
        **_texts("method", method),
        "threat.norm": threat.norm,
        "threat.eps": str(threat.eps),
        **{key: value for key, value in _texts("training", settings).items() if key not in FREE},
        "stored views": str(views) if views else None,
    }


def _texts(section: str, settings: Method | TrainingSettings) -> dict[str, str]:
    """Return each setting as JSON; a value of a user's own class, which JSON cannot hold, in its printed form."""
    return {
        f"{section}.{one.name}": json.dumps(getattr(settings, one.name), default=repr)
        for one in fields(settings)  # pyright: ignore[reportArgumentType]
    }


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state atomically, so that a kill leaves the old one or the new one."""
    with replacing(folder / FILE, durable=True) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_state(folder: Path, identity: Mapping[str, str | None]) -> dict[str, Any] | None:
    """Return the state in a run folder, or None if the run had not come so far.

    Args:
        folder: of the run.
        identity: method, threat model and settings; they must be those of the interrupted run.

    Raises:
        InputError: if the file is damaged or belongs to another configuration.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        check_sums(path)
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict[str, Any](state["identity"])
        check_form(state, {one.name for one in fields(Progress)})
    except Exception as error:  # from damaged bytes torch raises nearly everything: IndexError, AssertionError, ...
        raise damaged_state(folder, error) from None
    for name, value in identity.items():
        if saved.get(name) != value:
            raise InputError(
                f"the interrupted run in {str(folder)!r} has {name} {saved.get(name)} and this one {value}; resume "
                "with the same recipe, or use another --out."
            )
    return state


def damaged_state(folder: Path, error: Exception) -> InputError:
    """Return the error for a state that cannot be gone on from.

    Args:
        folder: of the run.
        error: what came of trying.
    """
    reason = f"{type(error).__name__} {error}" if isinstance(error, LookupError) else reason_of(error, 80)
    return InputError(f"{str(folder / FILE)!r} cannot be continued from ({reason}); start over with --overwrite.")


def remove_state(folder: Path) -> None:
    """Remove the state of a run whose weights are written."""
    for name in (FILE, f"{FILE}.partial"):
        (folder / name).unlink(missing_ok=True)
