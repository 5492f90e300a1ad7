"""What result files say of models and runs, once read and checked: the page is made of records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Which model a result is about.

    Args:
        model: as it was named on the command line.
        which: "best" or "last" weights of a run; None elsewhere.
        architecture: its name; "" if the file does not say.
        parameters: how many; None if the file does not say.
        fingerprint: of its weights; None in older files.
        folder: of the run, where the file lies in one.
        name: short label that the file gives it; "" for none.
    """

    model: str
    which: str | None = None
    architecture: str = ""
    parameters: int | None = None
    fingerprint: str | None = None
    folder: Path | None = None
    name: str = ""


@dataclass(frozen=True)
class Ground:
    """What a model was judged on.

    Args:
        data: name of the data set.
        norm: "linf" or "l2".
        eps: pixels in [0, 1].
        data_fingerprint: of the test images; None in older files.
    """

    data: str
    norm: str
    eps: float
    data_fingerprint: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What two results must share to stand in one table."""
        return self.data, self.norm, f"{self.eps:.6g}"


@dataclass(frozen=True)
class Origin:
    """Where a result comes from.

    Args:
        path: of its file, as found.
        command: that made it, or that makes it again; "" for none.
        recorded: whether the file itself says the command.
        provenance: date, versions, hardware.
        seed: of the attacks or samples; None if not said.
    """

    path: Path
    command: str = ""
    recorded: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Share of images that a model gets right under one attack.

    Args:
        value: in [0, 1].
        interval: 95 %, over the images.
        images: how many.
        correct: for each image whether it is right; None if the file does not say.
        ground: of the measurement.
        origin: of the measurement.
    """

    value: float
    interval: tuple[float, float]
    images: int
    correct: tuple[bool, ...] | None
    ground: Ground
    origin: Origin


@dataclass(frozen=True)
class Finding:
    """One check of whether a number can be trusted.

    Args:
        name: of the check.
        verdict: "passed", "warning", "failed" or "skipped".
        message: in words, with the numbers.
    """

    name: str
    verdict: str
    message: str


@dataclass(frozen=True)
class Curve:
    """Accuracy against something that grows.

    Args:
        at: the places, rising.
        accuracy: there, in [0, 1].
        intervals: 95 %, one a place; empty where there are none.
        attack: that was used; "" for certificates.
    """

    at: tuple[float, ...]
    accuracy: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] = ()
    attack: str = ""


@dataclass(frozen=True)
class Evaluation:
    """An attacked model."""

    identity: Identity
    ground: Ground
    origin: Origin
    accuracy: Mapping[str, Accuracy]
    sweep: Curve | None = None
    findings: Sequence[Finding] = ()
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    version: str = ""


@dataclass(frozen=True)
class Epoch:
    """A line of a journal: validation shares, and the loss terms by name."""

    epoch: int
    clean: float | None
    robust: float | None
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run.

    Args:
        folder: of it.
        method: its name.
        teacher: as its recipe names it; None for none.
        second_teacher: the same.
        architecture: of the model it trained.
        ground: data and threat of its recipe.
        epochs: of its journal.
        minutes: of training; None if unfinished.
        passes: network passes in all; None if not counted.
        parameters: of the model it trained; None if unknown.
        best: epoch of the best weights; None if unknown.
        origin: of its result.
        recipe: of it, whole.
    """

    folder: Path
    method: str
    teacher: str | None
    second_teacher: str | None
    architecture: str
    ground: Ground
    epochs: Sequence[Epoch]
    minutes: float | None
    passes: int | None
    parameters: int | None
    best: int | None
    origin: Origin
    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class Suitability:
    """Whether a teacher is worth distilling, as ``kdiga suitable`` found."""

    identity: Identity
    ground: Ground
    origin: Origin
    verdict: str
    findings: Sequence[Finding]
