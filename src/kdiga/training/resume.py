"""The state of an interrupted run: when it is saved, what it holds, and how a run continues from it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.data import Images, ImageSet
from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import InputError, InterruptedRunError, reason_of
from kdiga.io.atomic_write import replacing
from kdiga.methods import Method, method_options
from kdiga.methods.context import Teacher
from kdiga.models.checkpoint import check_sums
from kdiga.runs.fingerprints import fingerprint_of_images, fingerprint_of_model, printed
from kdiga.teachers import CachedTeacher
from kdiga.training.interruption import CONTINUE, SAVE, Interruption, signal_name
from kdiga.training.resume_checks import check_structure
from kdiga.training.settings import TrainingSettings
from kdiga.types import ThreatModel, recorded_options

FILE = "state.pt"
FORMAT = "4"
CHANGEABLE = (
    "training.accumulate",
    "training.save_every",
    "training.stop_at_chance",
)  # settings that may change when a run is continued
CONTENTS = ("student", "teacher", "second teacher", "training images", "validation images")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of objects in a printed form; another in each process
GetState = Callable[[], tuple[dict[str, Any], dict[str, Any]]]
"""Returns the state that is the same in all processes, and the state of this process."""


@dataclass
class Progress:
    """The progress of a run.

    Args:
        epoch: Present epoch, from 0.
        position: Number of its batches that are done.
        spent: Duration of these batches, in seconds.
        best_epoch: Epoch with the best weights so far, from 0.
        best_score: Validation score of these weights.
        best_state: These weights, on the CPU.
        seconds: Duration of all finished epochs.
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
    """Return what must be equal in an interrupted run and the run that continues it: values by a recipe's keys."""
    recorded = {name: getattr(settings, name) for name in recorded_options(settings)}
    return {
        "state format": FORMAT,
        "method": method.info.name,
        **_texts("method", method_options(method)),
        "threat.norm": threat.norm,
        "threat.eps": str(threat.eps),
        **{key: value for key, value in _texts("training", recorded).items() if key not in CHANGEABLE},
        "stored views": str(views) if views else None,
    }


def contents_of(
    student: nn.Module, teachers: Sequence[nn.Module | Teacher], train: object, validation: ImageSet | None
) -> dict[str, str | None]:
    """Return the student's architecture, and hashes of the teachers' weights and of the images; None if unknown.

    Pass no teacher that is trained, since the state replaces its weights.
    """
    names = ("teacher", "second teacher")
    sets = {"training images": train, "validation images": validation}
    return {
        "student": _ADDRESS.sub("", printed(student)),
        **{name: _fingerprint(teacher) for name, teacher in zip(names, teachers, strict=False)},
        **{name: fingerprint_of_images(data) if isinstance(data, Images) else None for name, data in sets.items()},
    }


def _fingerprint(teacher: nn.Module | Teacher) -> str | None:
    if isinstance(teacher, CachedTeacher):
        return teacher.store.manifest.teacher
    return fingerprint_of_model(teacher) if isinstance(teacher, nn.Module) else None


def _texts(section: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return each setting as JSON, with the ``repr`` of values that JSON does not have, such as a user's class."""
    return {f"{section}.{name}": json.dumps(value, default=repr) for name, value in settings.items()}


class Checkpoints:
    """Saves the state of a run regularly, and when a signal ends the run. All processes make every call together.

    Args:
        folder: Folder of the run; None saves nothing, and signals have their default effect.
        process_group: Processes of the run; the first one writes.
        save_every: Minutes between saves; 0 saves only at the end of an epoch.
    """

    def __init__(self, folder: Path | None, process_group: ProcessGroup, save_every: float) -> None:
        self.folder, self.process_group = folder, process_group
        self._interruption = Interruption(save_every)

    def listening(self) -> AbstractContextManager[None]:
        """Return the context in which signals are recorded, for :meth:`save_if_due`."""
        return nullcontext() if self.folder is None else self._interruption.listening()

    def load(self, identity: Mapping[str, str | None]) -> dict[str, Any] | None:
        """Return the state that the first process finds; see :func:`load_state`."""
        folder = self.folder
        return None if folder is None else self.process_group.run_on_first(lambda: load_state(folder, identity))

    @contextmanager
    def restoring(self) -> Generator[None]:
        """Restore a state inside.

        Raises:
            InputError: If any part of the restoring fails, because the state is not a state of this run.
        """
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise damaged_state(self.folder or Path(), error) from None

    def save_if_due(self, state: GetState, where: str) -> None:
        """Save if a save is due, or if any process received a signal.

        Raises:
            InterruptedRunError: After the save, if there was a signal.
        """
        if self.folder is None:
            return
        request = self.process_group.highest(self._interruption.request())
        if request != CONTINUE:
            self.save(state)
        if request not in (CONTINUE, SAVE):
            raise InterruptedRunError(
                request,
                f"stopped by {signal_name(request)} {where}; the state is saved in {str(self.folder)!r}. The same "
                "command continues from there with --resume.",
            )

    def save(self, state: GetState) -> None:
        """Save now."""
        if self.folder is None:
            return
        common, own = state()
        every = self.process_group.gathered(own)
        if self.process_group.leads:
            save_state(self.folder, common | {"own": every})
        self._interruption.saved()


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state atomically, so that a kill leaves the old one or the new one."""
    with replacing(folder / FILE, durable=True) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_state(folder: Path, identity: Mapping[str, str | None]) -> dict[str, Any] | None:
    """Return the state in a run folder, or None if no state was saved.

    Raises:
        InputError: If the file is damaged or belongs to another configuration.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        check_sums(path)
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict[str, Any](state["identity"])
        check_structure(state, {one.name for one in fields(Progress)})
    except Exception as error:  # from damaged bytes torch raises nearly everything: IndexError, AssertionError, ...
        raise damaged_state(folder, error) from None
    for name in {**identity, **saved}:  # a setting may be in one of them only
        value, there = identity.get(name), saved.get(name)
        if name in CONTENTS and None in (there, value):  # unknown: a loader, a state of an earlier version
            continue
        if there != value:
            raise InputError(
                f"the interrupted run in {str(folder)!r} has {name} {_shown(there)} and this one {_shown(value)}; "
                "resume with the same recipe, or use another --out."
            )
    return state


def _shown(value: str | None) -> str | None:
    return f"{value[:160]}..." if value and len(value) > 160 else value


def damaged_state(folder: Path, error: Exception) -> InputError:
    """Return the error for a state that a run cannot continue from."""
    reason = f"{type(error).__name__} {error}" if isinstance(error, LookupError) else reason_of(error, 80)
    return InputError(f"{str(folder / FILE)!r} cannot be continued from ({reason}); start over with --overwrite.")


def remove_state(folder: Path) -> None:
    """Remove the state of a run after its weights are written."""
    for name in (FILE, f"{FILE}.partial"):
        (folder / name).unlink(missing_ok=True)
