"""A run's folder: recipe, journal and ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator

from kdiga.io.safe_json_yaml import parse_json, parse_yaml
from kdiga.io.untrusted_file import read_text
from kdiga.results.fields import (
    Count,
    DamagedError,
    Fields,
    Lenient,
    Number,
    ResultModel,
    Share,
    Text,
    fields,
    shown,
    whole_number,
)
from kdiga.results.shared import Conditions, FileModel, ResultOrigin, ThreatRecord, command_of, validated


def _epoch(value: object) -> int:
    epoch = whole_number(value)
    if epoch is None:
        raise ValueError(f"is {shown(value)}, not a whole number")
    return epoch


class EpochLine(ResultModel):
    """A line of a journal: validation accuracies, and the loss terms by name."""

    epoch: Annotated[int, BeforeValidator(_epoch)]
    clean: Share | None = None
    robust: Share | None = None
    terms: Annotated[dict[str, Number | None], Lenient]

    @property
    def known_terms(self) -> dict[str, float]:
        """Loss terms that have a value."""
        return {name: value for name, value in self.terms.items() if value is not None}


def _minutes(value: float) -> float:
    if value < 0:
        raise ValueError(f"is {value:g}, below 0")
    return value


class TrainingRecord(ResultModel):
    """What ``result.json`` holds about training; nothing of it is there before the end of a run."""

    command: Text = ""
    seed: Count = None
    minutes: Annotated[Number, AfterValidator(_minutes)] | None = None
    passes: Fields = {}
    validation: Fields = {}
    provenance: Fields = {}
    parameters: Fields = {}
    fingerprints: Fields = {}


class CheckedEpoch(ResultModel):
    """Validation accuracies of an epoch; None for a model before training."""

    epoch: Number | None
    clean: Number | None
    robust: Number | None


class CheckedEpochs(ResultModel):
    """The epochs whose weights a run stores."""

    best: CheckedEpoch
    last: CheckedEpoch


class FinishedRun(FileModel):
    """``result.json``: what a run that continues relies on; its other fields are stored as they are."""

    KIND: ClassVar[str] = "run"

    minutes: Number | None
    validation: CheckedEpochs


@dataclass(frozen=True)
class RunResult:
    """A finished or unfinished run."""

    folder: Path
    recipe: Mapping[str, Any]  # content of config.yaml
    conditions: Conditions  # of the recipe
    epochs: Sequence[EpochLine]  # of the journal
    training: TrainingRecord  # content of result.json; empty for an unfinished run

    @classmethod
    def read(cls, folder: Path) -> RunResult:
        """Return a run, finished or not.

        Raises:
            DamagedError: if its recipe or its result cannot be read. An unreadable line of the journal ends the
                journal: it is the last one of a run that was killed.
        """
        try:
            recipe = parse_yaml(read_text(folder / "config.yaml"))[0]
        except (OSError, ValueError) as error:
            raise DamagedError(f"its recipe cannot be read ({str(error).splitlines()[0]})") from None
        if not isinstance(recipe, Mapping):
            raise DamagedError("the recipe is not an object")
        data, threat = fields(recipe.get("data")).get("name"), validated(ThreatRecord, recipe.get("threat"))
        if not data or not isinstance(data, str):
            raise DamagedError("its recipe names no data set")
        conditions = Conditions(data, threat.norm, threat.eps)
        return cls(
            folder, recipe, conditions, read_journal(folder / "journal.jsonl"), _training(folder / "result.json")
        )

    @property
    def method(self) -> str:
        """Name of the training method, and of those whose terms were added."""
        method = fields(self.recipe.get("method"))
        name = method.get("name")
        return "+".join([name, *map(str, fields(method.get("with")))]) if isinstance(name, str) else "unknown"

    @property
    def teacher(self) -> str | None:
        """Teacher, as the recipe names it; None for none."""
        return self._name_of("teacher")

    @property
    def second_teacher(self) -> str | None:
        """Second teacher, as the recipe names it; None for none."""
        return self._name_of("second_teacher")

    def _name_of(self, role: str) -> str | None:
        given = self.recipe.get(role)
        name = given if isinstance(given, str) else fields(given).get("name")
        return name if isinstance(name, str) and name else None

    @property
    def architecture(self) -> str:
        """Architecture and activation of the trained model."""
        student = fields(self.recipe.get("student"))
        return "-".join(part for key in ("name", "activation") if isinstance(part := student.get(key), str) and part)

    @property
    def minutes(self) -> float | None:
        """Minutes of training; None for an unfinished run."""
        return self.training.minutes

    @property
    def passes(self) -> int | None:
        """Network passes in all; None if they were not counted."""
        counts = [whole_number(value) for value in self.training.passes.values()]
        known = [count for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    @property
    def parameters(self) -> int | None:
        """Parameters of the trained model; None if unknown."""
        return whole_number(self.training.parameters.get("student"))

    def fingerprint(self, which: str) -> str | None:
        """Return the fingerprint of the "best" or "last" weights; None if unknown."""
        found = self.training.fingerprints.get(which)
        return found if isinstance(found, str) else None

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the best weights, from 0; None if unknown."""
        return whole_number(fields(self.training.validation.get("best")).get("epoch"))

    @property
    def origin(self) -> ResultOrigin:
        """Where the result comes from."""
        made, again = self.training, command_of("train", self.folder / "config.yaml", out=f"{self.folder}-again")
        path = self.folder / "result.json"
        return ResultOrigin(path, made.command or again, bool(made.command), made.provenance, made.seed)


def rounds_among(runs: Sequence[RunResult]) -> set[Path]:
    """Return the resolved folders of the runs that are a round of another run."""
    whole = {run.folder.resolve() for run in runs if run.recipe.get("rounds")}
    folders = (run.folder.resolve() for run in runs)
    return {folder for folder in folders if folder.parent in whole and folder.name.startswith("round-")}


def _training(path: Path) -> TrainingRecord:
    if not path.is_file():
        return TrainingRecord()
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path.name} cannot be read ({error})") from None
    return validated(TrainingRecord, content)


def read_journal(path: Path) -> list[EpochLine]:
    """Return the epochs of a journal up to the first damaged line; none if the file cannot be read."""
    epochs: list[EpochLine] = []
    try:
        lines = read_text(path, errors="replace").splitlines()
    except (OSError, ValueError):
        return epochs
    for line in lines:
        try:
            event = parse_json(line)
            if "epoch" in event and "terms" in event:
                epochs.append(EpochLine.model_validate(event))
        except (ValueError, TypeError):
            break
    return epochs
