"""What result files of all kinds share: model, data and threat model, origin, findings."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import Field, PrivateAttr, ValidationError

from kdiga.io.atomic_write import write_atomically
from kdiga.io.safe_json_yaml import parse_json
from kdiga.io.untrusted_file import read_text
from kdiga.results.attack_names import eps_text
from kdiga.results.fields import (
    Count,
    DamagedError,
    Fields,
    NoneAsEmpty,
    Number,
    OptionalText,
    ResultModel,
    Text,
    invalid_reason,
    shown,
)
from kdiga.statistics import clopper_pearson

Model = TypeVar("Model", bound=ResultModel)
_ABSOLUTE = re.compile(r"(?<![^=,])(/|~|[A-Za-z]:\\).*[/\\].*")  # at the start of a word, or behind = or ,
_GENERIC = re.compile(r"seed-\d+|(best|last)\.safetensors")  # parts of a path that do not identify a model
JUDGED = ("evaluation", "certification", "suitability", "explanation", "export")  # folders of results inside a run
REPLACED = "replaced"  # folder in a run's folder for results about weights that were replaced


@dataclass(frozen=True)
class ModelIdentity:
    """Which model a result is about; empty or None where a file does not say it."""

    model: str  # name on the command line
    which: str | None = None  # "best" or "last" weights of a run
    architecture: str = ""
    parameters: int | None = None
    fingerprint: str | None = None  # of the weights
    folder: Path | None = None  # of the run, if the file lies in one
    name: str = ""  # short label that the file gives


@dataclass(frozen=True)
class Conditions:
    """Data set and threat model of a measurement."""

    data: str
    norm: str  # "linf", "l2" or "l1"
    eps: float  # pixels in [0, 1]
    data_fingerprint: str | None = None  # of the test images; None in older files

    @property
    def key(self) -> tuple[str, str, str]:
        """What two results must share to be compared."""
        return self.data, self.norm, f"{self.eps:.6g}"

    def __str__(self) -> str:
        return f"{without_folders(self.data)}, {self.norm} eps {eps_text(self.eps)}"


@dataclass(frozen=True)
class ResultOrigin:
    """Where a result comes from: file, command, date, versions, hardware, seed."""

    path: Path
    command: str = ""  # made the file, or measures the same; "" for none
    recorded: bool = True  # whether the file itself holds the command
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Share of images that a model classifies correctly under one attack."""

    value: float  # in [0, 1]
    interval: tuple[float, float]  # 95 %, over the images
    images: int  # number of images
    correct: tuple[bool, ...] | None  # outcome of each image; None if the file has none
    conditions: Conditions
    origin: ResultOrigin
    worst_class: float | None = None  # accuracy on the class with the lowest one; None if the file has none


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy against eps or a radius."""

    at: tuple[float, ...]  # eps or radii, rising
    accuracy: tuple[float, ...]  # in [0, 1]
    intervals: tuple[tuple[float, float], ...] = ()  # 95 %; empty for none
    attack: str = ""  # "" for certificates


class ThreatRecord(ResultModel):
    """Norm and eps of a threat model."""

    norm: Literal["linf", "l2", "l1"]
    eps: Number


class FindingRecord(ResultModel):
    """One check of whether a number can be trusted; the message holds the numbers."""

    name: Text = "unnamed"
    verdict: Literal["passed", "warning", "failed", "skipped"]
    message: Text = ""
    evidence: Fields = {}


Findings = Annotated[list[FindingRecord], NoneAsEmpty]


class ModelRecord(ResultModel):
    """What a file says about a model."""

    model: Text = ""
    which: OptionalText = None
    architecture: Text = ""
    parameters: Count = None
    fingerprint: OptionalText = None
    name: Text = ""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        return self.identity_in(None)

    def identity_in(self, folder: Path | None) -> ModelIdentity:
        """Return which model this is, of the run in a folder."""
        return ModelIdentity(
            self.model, self.which, self.architecture, self.parameters, self.fingerprint, folder, self.name
        )


class FileModel(ResultModel):
    """A whole result file, with its path once it was read."""

    KIND: ClassVar[str]
    _path: Path = PrivateAttr(Path())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file holds.

        Raises:
            DamagedError: if it cannot be read, or does not hold what its kind requires.
        """
        found = validated(cls, load_content(path, cls.KIND))
        found._path = path
        return found

    def write(self, path: Path, *, indent: int = 1) -> None:
        """Write the fields that were given as JSON, at once or not at all."""
        text = json.dumps(self.to_dict(), indent=indent, allow_nan=False)
        write_atomically(path, text + "\n", shared=True)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self._path


class EarlierCall(ResultModel):
    """A call that gave a part of a result file, which a later call added to."""

    command: Text = ""
    provenance: Fields = {}


class ResultFile(FileModel):
    """What every result file of a command that judges models holds."""

    kind: Text = ""
    command: Text = ""
    data: Annotated[str, Field(min_length=1)]
    data_fingerprint: OptionalText = None
    examples: Count = None
    threat: ThreatRecord
    seed: Count = None
    provenance: Fields = {}
    earlier: list[EarlierCall] = []

    @property
    def conditions(self) -> Conditions:
        """Data set and threat model."""
        return Conditions(self.data, self.threat.norm, self.threat.eps, self.data_fingerprint)

    def accuracy_of(self, value: float, interval: Sequence[float] | None, correct: Sequence[float] | None) -> Accuracy:
        """Return an accuracy with its interval; outcomes of each image may be unknown."""
        images = len(correct) if correct else self.examples or 0
        low, high = interval or clopper_pearson(round(value * images), images)
        right = tuple(map(bool, correct)) if correct else None
        return Accuracy(value, (low, high), images, right, self.conditions, self.origin)

    @property
    def origin(self) -> ResultOrigin:
        """Where the result comes from: the last call that added to it, with the commands of all."""
        commands = [call.command for call in (*self.earlier, self) if call.command]
        command = " && ".join(commands) or self.equal_command
        return ResultOrigin(self.path, command, bool(commands), self.provenance, self.seed)

    @property
    def origins(self) -> list[ResultOrigin]:
        """All calls that the result comes from, the last one at the end."""
        earlier = [ResultOrigin(self.path, one.command, True, one.provenance, self.seed) for one in self.earlier]
        command = self.command or self.equal_command
        return [*earlier, ResultOrigin(self.path, command, bool(self.command), self.provenance, self.seed)]

    @property
    def equal_command(self) -> str:
        """A command that measures the same, for files without their command; "" for none."""
        return ""


class JudgedFile(ModelRecord, ResultFile):
    """A result file about one model."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model the result is about."""
        return self.identity_in(run_folder(self.path))


def run_folder(path: Path) -> Path | None:
    """Return the folder of the run that a result file lies in; None if it lies in none."""
    folder = path.parent
    if folder.parent.name in JUDGED:
        folder = folder.parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def validated(kind: type[Model], content: object) -> Model:
    """Return plain data as a model."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise DamagedError(invalid_reason(error)) from None


def load_content(path: Path, kind: str) -> dict[str, Any]:
    """Return the fields of a JSON file.

    Raises:
        DamagedError: if it is no JSON object of finite numbers and printable text, or names another kind.
    """
    try:
        text = read_text(path)
        content = json.loads(text, parse_constant=_refuse)
        parse_json(text)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"it is not readable JSON ({error})") from None
    if not isinstance(content, dict):
        raise DamagedError("the file is not an object")
    if "\\u0000" in text:
        raise DamagedError("it holds a null character")
    if content.get("kind", kind) != kind:
        raise DamagedError(f"its kind is {shown(content['kind'])}, not {kind!r}")
    return content


def _refuse(constant: str) -> None:
    raise DamagedError(f"it holds {constant}, which is not a number")


def command_of(*parts: object, **options: object) -> str:
    """Return a command line, quoted for a shell.

    An option that is None is left out, one with a list of values stands once for each.

    >>> command_of("study", "a.yaml", out="runs/a", set=["seeds=0", "tune.trials=2"], records=None)
    'kdiga study a.yaml --out runs/a --set seeds=0 --set tune.trials=2'
    """
    values = [(name, one) for name, given in options.items() for one in (given if isinstance(given, list) else [given])]
    words = [word for name, value in values if value is not None for word in (f"--{name}", value)]
    return shlex.join(["kdiga", *map(str, (*parts, *words))])


def without_folders(value: Any) -> Any:
    """Return plain data for publication: of each absolute path the last part, which names no user or machine.

    >>> without_folders({"name": "/home/alice/data", "root": "~/x", "eps": 0.1, "norm": "l2"})
    {'name': 'data', 'root': 'x', 'eps': 0.1, 'norm': 'l2'}
    """
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in cast("Sequence[Any]", value)]
    if not isinstance(value, str):
        return value
    start, colon, rest = value.rpartition(":")
    return f"{start}{colon}{_ABSOLUTE.sub(lambda found: Path(found[0]).name, rest)}"


def command_without_folders(command: str) -> str:
    """Return a command line for publication; see :func:`without_folders`."""
    try:
        return shlex.join(without_folders(shlex.split(command)))
    except ValueError:
        return without_folders(command)


def short_names(paths: Sequence[str], marks: Sequence[str] = ()) -> list[str]:
    """Return the shortest distinct ending of each path, with its mark; repeated names get a number.

    A name does not begin with a part that is only a seed or a weights file.

    >>> short_names(["runs/teachers/robust", "runs/kd/seed-0", "runs/tangent/seed-0", "runs/kd/seed-0"])
    ['robust', 'kd/seed-0', 'tangent/seed-0', 'kd/seed-0 (2)']
    """
    parts = [Path(path).parts or (path,) for path in paths]
    names, seen = list[str](), Counter[str]()
    for own, mark in zip(parts, marks or [""] * len(parts), strict=True):
        others = [other for other in parts if other != own]
        length = next((count for count in range(1, len(own)) if _identifies(own[-count:], others)), len(own))
        name = "/".join(own[-length:]) + mark
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return names


def _identifies(ending: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    return not _GENERIC.fullmatch(ending[0]) and all(other[-len(ending) :] != ending for other in others)
