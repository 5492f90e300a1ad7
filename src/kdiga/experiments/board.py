"""A cell: one run of a study, and how far it has come, which its folder alone says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from kdiga.data import DataSet
from kdiga.errors import InputError, reason_of
from kdiga.io.safe_json_yaml import load_json
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import RESULT, write_result

Kind = Literal["teacher", "trial", "method", "start"]
State = Literal["open", "done", "diverged", "failed"]
FAILURE, VALIDATION = "failure.json", "best-validation.json"
ENDED = ("done", "diverged")


class PostRunMeasurement(Protocol):
    """Something to be found out of a cell's best weights, once they are trained and attacked.

    It is told to worker processes, so it has to be picklable, and what it has begun should go on when it is run again.
    """

    @property
    def file(self) -> str:
        """Name of the file that it leaves in the run's folder."""
        ...

    @property
    def asked(self) -> Mapping[str, Any]:
        """The settings, as the file has them under "settings"."""
        ...

    def run(self, folder: Path, out: Path, recipe: Recipe, data: DataSet) -> None:
        """Write the file.

        Args:
            folder: of the run.
            out: the study's.
            recipe: of the run.
            data: of the study.
        """
        ...


@dataclass(frozen=True)
class CleanAccuracyFloor:
    """The clean accuracy that a trial has to keep, to be chosen.

    Args:
        start: folder of the student before training, below the study's; it has been judged on validation images.
        at_most: percentage points of validation clean accuracy that may be lost.
    """

    start: str
    at_most: float


@dataclass(frozen=True)
class RunSpec:
    """One run.

    Args:
        folder: of the run, below the study's.
        label: what it is one run of.
        kind: a teacher of the study, a trial of coefficients, a method with one seed, or a student as it is before
            training, which is judged and not trained.
        recipe: what to train; its method's coefficients give way to the best trial's.
        needs: folders of the teachers that it learns from.
        trials: folders of the runs whose best one gives its coefficients.
        which: weights to attack; none for a trial, which never sees the test images.
        validated: whether the best weights are attacked on the validation images, too, each image's outcome kept.
        floor: that its trials have to keep; None chooses by robust accuracy alone.
        after: what else is found out of the best weights.
    """

    folder: str
    label: str
    kind: Kind
    recipe: Recipe
    needs: tuple[str, ...] = ()
    trials: tuple[str, ...] = ()
    which: tuple[str, ...] = ()
    validated: bool = False
    floor: CleanAccuracyFloor | None = None
    after: tuple[PostRunMeasurement, ...] = ()

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Folders of the runs that its coefficients are chosen by."""
        return (*self.trials, *([self.floor.start] if self.floor and self.trials else []))

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the files that the attacks on a trained cell, and what comes after, leave in its folder."""
        return (
            *(test_file(Path(), which).name for which in self.which),
            *([VALIDATION] if self.validated else []),
            *(step.file for step in self.after),
        )


@dataclass
class RunBoard:
    """The state of all cells, read from their folders.

    Args:
        run_specs: in the order in which they are worth running.
        out: the study's folder.
        since: a failure noted before this time, in seconds since the epoch, counts as open: it is tried again.
    """

    run_specs: Sequence[RunSpec]
    out: Path
    since: float = 0.0
    _ended: dict[str, State] = field(default_factory=dict[str, State])

    def __post_init__(self) -> None:
        self.by_folder: Mapping[str, RunSpec] = {run_spec.folder: run_spec for run_spec in self.run_specs}

    def state(self, run_spec: RunSpec) -> State:
        """Return how far a cell has come; one whose teacher or trial failed has failed itself."""
        if run_spec.folder not in self._ended:
            state = self._look(run_spec)
            if state not in ENDED:
                return state
            self._ended[run_spec.folder] = state  # what has ended well stays so, and costs no more looking
        return self._ended[run_spec.folder]

    def _look(self, run_spec: RunSpec) -> State:
        folder = self.out / run_spec.folder
        if (folder / RESULT).is_file() and all((folder / name).is_file() for name in run_spec.reports):
            return "done"
        failure = read_json(folder / FAILURE)
        if failure is not None:
            status, noted = failure.get("status"), failure.get("time")
            if status not in ("diverged", "failed") or not isinstance(noted, int | float):
                raise InputError(f"{str(folder / FAILURE)!r} tells no failure; delete it, and the run is tried again.")
            if status == "diverged" or noted >= self.since:
                return status
        return "failed" if self.obstacle(run_spec) else "open"

    def obstacle(self, run_spec: RunSpec) -> str | None:
        """Return why a cell can never run, or None."""
        for folder in run_spec.needs:
            if not self._trained(folder) and (state := self.state(self.by_folder[folder])) != "open":
                return f"{folder} {state}"
        for folder in run_spec.judged_by:
            if self.state(self.by_folder[folder]) == "failed":
                return f"{folder} failed"
        return None

    def ready(self, run_spec: RunSpec) -> bool:
        """Return whether a cell's teachers are trained and what it is chosen by has ended."""
        return all(self._trained(folder) for folder in run_spec.needs) and all(
            self.state(self.by_folder[folder]) in ENDED for folder in run_spec.judged_by
        )

    def _trained(self, folder: str) -> bool:
        return (self.out / folder / RESULT).is_file()

    def folders(self, state: State) -> list[str]:
        """Return the folders of the cells in a state, in their order."""
        return [run_spec.folder for run_spec in self.run_specs if self.state(run_spec) == state]

    def count(self) -> int:
        """Return how many cells have ended, in whatever way."""
        return sum(self.state(run_spec) != "open" for run_spec in self.run_specs)


def test_file(folder: Path, which: str) -> Path:
    """Return where the test accuracies of a run's best or last weights are."""
    return folder / f"{which}-test.json"


def note_failure(folder: Path, status: State, error: str, time: float, trace: str | None = None) -> None:
    """Write down why a cell has no result."""
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder, {"status": status, "error": error, "time": time, "trace": trace}, FAILURE)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's content, or None where there is none.

    Raises:
        InputError: if it cannot be read, or holds no object.
    """
    try:
        found = load_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({reason_of(error)}); delete it, and it is made again."
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{str(path)!r} holds no result; delete it, and it is made again.")
    return cast("dict[str, Any]", found)
