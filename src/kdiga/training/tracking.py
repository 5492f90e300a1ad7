"""A run's course in TensorBoard or Weights & Biases, through Accelerate's trackers.

Trackers do not change a run, so they are not in its recipe, and a failure of a tracker does not end the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from kdiga.errors import InputError, check_known, words_of
from kdiga.training.result import EpochRecord

TRACKERS = ("tensorboard", "wandb")  # names of the packages and of the extras, too
FOLDER = "tracking"  # in a run's folder


class Trackers:
    """Sends every epoch to trackers; of several processes the first one sends.

    Trackers start at the end of the first epoch, when device and processes of the run are known. Use it as a context
    manager, which closes them.

    Args:
        names: Trackers, "tensorboard" or "wandb". W&B's variables (WANDB_MODE=offline, WANDB_ENTITY, ...) have effect.
        folder: Folder of the run; events go into a subfolder, one for each start.
        config: Configuration of the run, nested plain data, which the trackers record.
        project: Project of the run in the trackers.
        on_trouble: Called once with a line of text if a tracker fails; the tracker is not used again.

    Raises:
        InputError: If a name is unknown, or a package is not installed.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        *,
        project: str = "kdiga",
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.names = list(dict.fromkeys(names))
        for name in self.names:
            check_known("tracker", name, TRACKERS)
            if find_spec(name) is None:
                raise InputError(f"{name} is not installed; install it with: pip install 'kdiga[{name}]'")
        self.folder, self.config, self.project = folder, flattened(config), project
        self.on_trouble = on_trouble
        self._trackers: list[GeneralTracker] | None = None
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers or []:
            # Not Accelerator.end_training, which would also end the communication between processes.
            self._try(tracker, tracker.finish)

    def on_epoch(self, record: EpochRecord) -> None:
        """Send an epoch: learning rate, loss terms and their weights, validation accuracies, seconds."""
        if self._trackers is None:
            self._trackers = self._start()
        # A resumed run continues at its epoch; rounds start at epoch 0 again, and their steps continue.
        self._step = max(record.epoch, self._step) + 1
        values = values_of(record)
        for tracker in list(self._trackers):
            self._try(tracker, lambda tracker=tracker: tracker.log(values, step=self._step))

    def _start(self) -> list[GeneralTracker]:
        started: list[GeneralTracker] = []
        for name in self.names:
            place = self.folder / FOLDER / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            wandb = {"name": self.folder.name, "dir": str(place)}
            try:
                place.mkdir(parents=True, exist_ok=True)
                accelerator = Accelerator(log_with=name, project_dir=str(place))
                accelerator.init_trackers(self.project, self.config, {"wandb": wandb})
                started += accelerator.trackers
            except Exception as error:  # the run continues after any error of a service
                self._report(name, error)
        return started

    def _try(self, tracker: GeneralTracker, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # the run continues after any error of a service
            if self._trackers is not None and tracker in self._trackers:
                self._trackers.remove(tracker)
            self._report(str(getattr(tracker, "name", "a tracker")), error)

    def _report(self, name: str, error: Exception) -> None:
        if self.on_trouble is not None:
            reason = words_of(error, 160)
            self.on_trouble(f"{name} failed ({reason}); training continues without it.")


def values_of(record: EpochRecord) -> dict[str, float]:
    """Return the numbers of an epoch by name, without those that were not measured."""
    values: dict[str, float | None] = {"lr": record.lr, "epoch": record.epoch + 1, "seconds": record.seconds}
    values |= {f"term/{name}": value for name, value in record.terms.items()}
    values |= {f"weight/{name}": value for name, value in record.weights.items()}
    values |= {"validation/clean": record.clean, "validation/robust": record.robust}
    return {name: float(value) for name, value in values.items() if value is not None}


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return nested plain data as one level, as trackers need it.

    >>> flattened({"training": {"lr": 0.1, "milestones": [0.5]}, "teacher": None})
    {'training.lr': 0.1, 'training.milestones': '[0.5]', 'teacher': 'None'}
    """
    flat: dict[str, str | int | float | bool] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat
