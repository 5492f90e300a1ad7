"""The runs of an experiment, and the state of each, which its folder alone decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from kdiga.errors import InputError, reason_of
from kdiga.io.safe_json_yaml import load_json
from kdiga.recipes.schema import Recipe
from kdiga.runs.run_folder import FAILURE, RESULT, write_json

if TYPE_CHECKING:
    from kdiga.experiments.claims.measurements import TeacherMeasurement

Kind = Literal["teacher", "trial", "method", "start", "interpolated"]
State = Literal["open", "done", "diverged", "failed"]
VALIDATION = "best-validation.json"
ENDED = ("done", "diverged")


@dataclass(frozen=True)
class CleanAccuracyFloor:
    """The least validation clean accuracy of a trial that may be chosen."""

    start: str  # folder of the student before training, below the experiment's
    at_most: float  # percentage points of validation clean accuracy that may be lost


@dataclass(frozen=True)
class RunSpec:
    """One run."""

    folder: str  # folder of the run, below the experiment's
    label: str  # name of what is repeated: a method, a teacher, a value
    # A teacher of the experiment, a trial of coefficients, a method with one seed, a model as it is before training, or
    # one between before and after; the last two are attacked and not trained.
    kind: Kind
    recipe: Recipe  # what to train; the best trial's coefficients replace its method's
    needs: tuple[str, ...] = ()  # folders of the teachers; of an interpolated run, of start and trained student
    trials: tuple[str, ...] = ()  # folders of the trials, whose best one gives the coefficients
    # Weights to attack, "best" and "last"; none for a trial, which never uses the test images.
    which: tuple[str, ...] = ()
    # Whether the best weights are attacked on the validation images too, with each image's outcome saved.
    validated: bool = False
    floor: CleanAccuracyFloor | None = None  # condition on the best trial; None chooses by robust accuracy alone
    after: tuple[TeacherMeasurement, ...] = ()  # further measurements of the best weights
    share: float | None = None  # of the change by training, in an interpolated run

    @property
    def is_trained(self) -> bool:
        """Whether the run trains its student."""
        return self.kind not in ("start", "interpolated")

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Folders of the runs that decide its coefficients."""
        return (*self.trials, *([self.floor.start] if self.floor and self.trials else []))

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the files that attacks and later measurements write to its folder."""
        return (
            *(test_file(Path(), which).name for which in self.which),
            *([VALIDATION] if self.validated else []),
            *(measurement.file for measurement in self.after),
        )


@dataclass
class RunBoard:
    """The state of all runs, read from their folders."""

    run_specs: Sequence[RunSpec]  # runs in the order in which they are worth running
    out: Path  # folder of the experiment
    since: float = 0.0  # seconds since the epoch; a run that failed before then is open: it is tried again
    next_report: float = 0.0  # monotonic time before which result files are not written again
    _ended: dict[str, State] = field(default_factory=dict[str, State])

    def __post_init__(self) -> None:
        self.by_folder: Mapping[str, RunSpec] = {run_spec.folder: run_spec for run_spec in self.run_specs}

    def state(self, run_spec: RunSpec) -> State:
        """Return the state of a run; it has failed if its teacher or a trial failed."""
        if run_spec.folder not in self._ended:
            state = run_state(run_spec, self.out, self.since)
            if state == "open" and self.obstacle(run_spec):
                state = "failed"
            if state not in ENDED:
                return state
            self._ended[run_spec.folder] = state  # it stays so, and its files need not be read again
        return self._ended[run_spec.folder]

    def obstacle(self, run_spec: RunSpec) -> str | None:
        """Return why a run can never start, or None."""
        for folder in run_spec.needs:
            if not self._trained(folder) and (state := self.state(self.by_folder[folder])) != "open":
                return f"{folder} {state}"
        for folder in run_spec.judged_by:
            if self.state(self.by_folder[folder]) == "failed":
                return f"{folder} failed"
        return None

    def error(self, run_spec: RunSpec) -> str | None:
        """Return why a run has no result; None for one that is open or done."""
        if self.state(run_spec) in ("open", "done"):
            return None
        failure = read_json(self.out / run_spec.folder / FAILURE) or {}
        return failure.get("error") or self.obstacle(run_spec)

    def ready(self, run_spec: RunSpec) -> bool:
        """Return whether a run's teachers are trained and its trials have ended."""
        return all(self._trained(folder) for folder in run_spec.needs) and all(
            self.state(self.by_folder[folder]) in ENDED for folder in run_spec.judged_by
        )

    def _trained(self, folder: str) -> bool:
        return (self.out / folder / RESULT).is_file()

    def trials_of(self, run_spec: RunSpec) -> tuple[RunSpec, ...]:
        """Return the trials that decide a run's coefficients."""
        return tuple(self.by_folder[folder] for folder in run_spec.trials)

    def folders(self, state: State) -> list[str]:
        """Return the folders of the runs in a state, in their order."""
        return [run_spec.folder for run_spec in self.run_specs if self.state(run_spec) == state]

    def count(self) -> int:
        """Return the number of runs that are not open any more."""
        return sum(self.state(run_spec) != "open" for run_spec in self.run_specs)

    @property
    def all_ended(self) -> bool:
        """Whether every run is done or diverged."""
        return all(self.state(run_spec) in ENDED for run_spec in self.run_specs)


def run_state(run_spec: RunSpec, out: Path, since: float) -> State:
    """Return the state of a run by its own folder, whatever it depends on."""
    folder = out / run_spec.folder
    if (folder / RESULT).is_file() and all((folder / name).is_file() for name in run_spec.reports):
        return "done"
    failure = read_json(folder / FAILURE)
    if failure is None:
        return "open"
    status, noted = failure.get("status"), failure.get("time")
    if status not in ("diverged", "failed") or not isinstance(noted, int | float):
        raise InputError(f"{str(folder / FAILURE)!r} describes no failure; delete it, and the run is tried again.")
    return status if status == "diverged" or noted >= since else "open"


def test_file(folder: Path, which: str) -> Path:
    """Return the path of the test accuracies of a run's best or last weights."""
    return folder / f"{which}-test.json"


def note_failure(folder: Path, status: State, error: str, time: float, trace: str | None = None) -> None:
    """Write down why a run has no result."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILURE, {"status": status, "error": error, "time": time, "trace": trace})


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None without one.

    Raises:
        InputError: If it cannot be read, or is not an object.
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
