"""What explanations say, once read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdiga.report.records import Finding, Ground, Identity, Origin


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
    """One model of an explanation.

    Args:
        identity: of the model.
        teacher: whether it is the teacher.
        clean: accuracy; None if not said.
        robust: accuracy under the attack; None if not said.
        robust_interval: 95 %.
        attack: its name.
        linearity: mean remainder from linearity in nats, and its 95 % interval.
        cosine: mean with the teacher's gradients, and its 95 % interval; None for the teacher.
        distance: mean dual norm of the gradients' difference; None for the teacher.
        bounds: by name.
        kept: robust accuracy over the teacher's; None for the teacher.
        correct: by attack, for each image whether it is right; empty if not said.
    """

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
    correct: Mapping[str, tuple[bool, ...]] = field(default_factory=dict[str, tuple[bool, ...]])


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
    """Why robustness did or did not transfer, as ``kdiga explain`` measured it; its sentences say why."""

    ground: Ground
    origin: Origin
    models: Sequence[Explained]
    sentences: Sequence[str]
    ranking: Sequence[Mapping[str, Any]]
    gallery: Gallery | None
    images: int
    findings: Sequence[Finding] = ()
