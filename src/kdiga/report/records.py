"""What result files say, once read and checked: the page is made of these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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
class Radii:
    """A certificate of one kind.

    Args:
        kind: "clever", "smoothing" or "interval".
        norm: of its radius.
        curve: share of all images that are right and have at least that radius.
        median: radius of the median image; None if unknown.
        images: how many.
        missing: images for which there is no radius (a fit that failed, an abstention), in words.
        settings: numbers of samples and the like, by name.
    """

    kind: str
    norm: str
    curve: Curve
    median: float | None
    images: int
    missing: str
    settings: Mapping[str, float]


@dataclass(frozen=True)
class Against:
    """A student's radii beside its teacher's.

    Args:
        kind: of certificate.
        share: of images whose student radius is at least the teacher's.
        interval: 95 %.
        teacher_curve: as in :class:`Radii`; None for none.
    """

    kind: str
    share: float
    interval: tuple[float, float] | None
    teacher_curve: Curve | None


@dataclass(frozen=True)
class Certificate:
    """A certified model, and the teacher it was held against."""

    identity: Identity
    ground: Ground
    origin: Origin
    radii: Mapping[str, Radii]
    teacher: Identity | None = None
    against: Mapping[str, Against] = field(default_factory=dict[str, Against])


@dataclass(frozen=True)
class Split:
    """A bound of a loss, in its pieces.

    Args:
        mean: over the images, in nats.
        pieces: by name; they add up to the mean.
        measured: the worst that was found, mean over the images.
        tightness: measured / mean; None if the file does not say.
    """

    mean: float
    pieces: Mapping[str, float]
    measured: float
    tightness: float | None


@dataclass(frozen=True)
class Explained:
    """One model of an explanation."""

    identity: Identity
    teacher: bool
    clean: float | None
    robust: float | None
    robust_interval: tuple[float, float] | None
    attack: str
    linearity: tuple[float, tuple[float, float] | None] | None
    cosine: tuple[float, tuple[float, float] | None] | None
    distance: float | None
    bounds: Mapping[str, Split]
    kept: float | None


@dataclass(frozen=True)
class Seen:
    """Pictures of one model, in the order of the images.

    Args:
        gradient: (image, channel, height, width).
        adversarial: the same shape, pixels in [0, 1]; None where there is none.
        predictions: class on the clean image; None if unknown.
        fooled: class on the adversarial image; None if unknown.
    """

    gradient: np.ndarray
    adversarial: np.ndarray | None = None
    predictions: tuple[int, ...] | None = None
    fooled: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Gallery:
    """Images, and what models make of them.

    Args:
        images: (image, channel, height, width), pixels in [0, 1].
        labels: one an image.
        classes: their names; empty if unknown.
        seen: one a model, in the explanation's order.
    """

    images: np.ndarray
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    seen: Sequence[Seen]


@dataclass(frozen=True)
class Explanation:
    """Why robustness did or did not transfer, as ``kdiga explain`` measured it."""

    ground: Ground
    origin: Origin
    models: Sequence[Explained]
    sentences: Sequence[str]
    ranking: Sequence[Mapping[str, Any]]
    gallery: Gallery | None
    images: int


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


@dataclass(frozen=True)
class LeftOut:
    """A file that was found and not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Results:
    """All that was found.

    Args:
        evaluations: attacked models.
        certificates: certified models.
        explanations: of teachers with their students.
        suitabilities: of teachers.
        runs: with their journals.
        studies: folder and content of each ``study.json``.
        left_out: files that could not be used.
    """

    evaluations: Sequence[Evaluation] = ()
    certificates: Sequence[Certificate] = ()
    explanations: Sequence[Explanation] = ()
    suitabilities: Sequence[Suitability] = ()
    runs: Sequence[Run] = ()
    studies: Sequence[tuple[Path, Mapping[str, Any]]] = ()
    left_out: Sequence[LeftOut] = ()

    def __bool__(self) -> bool:
        return any(
            (self.evaluations, self.certificates, self.explanations, self.suitabilities, self.runs, self.studies)
        )
