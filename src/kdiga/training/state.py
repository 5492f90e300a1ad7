"""A run in the middle: everything needed to go on as if it had never stopped."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdiga.errors import InputError

FILE = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state atomically, so that a kill leaves the old one or the new one."""
    partial = folder / f"{FILE}.partial"
    torch.save(state, partial)
    os.replace(partial, folder / FILE)


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
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["identity"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{str(path)!r} cannot be continued from ({str(error).splitlines()[0][:80]}); start over with --overwrite."
        ) from None
    for name, value in identity.items():
        if saved.get(name) != value:
            raise InputError(
                f"the interrupted run in {str(folder)!r} has {name} {saved.get(name)} and this one {value}; resume "
                "with the same recipe, or use another --out."
            )
    return state


def remove_state(folder: Path) -> None:
    """Remove the state of a run that has ended well."""
    (folder / FILE).unlink(missing_ok=True)
