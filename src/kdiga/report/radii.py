"""What certificates say, once read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdiga.report.records import Curve, Ground, Identity, Origin


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
        rho: median of rho / L, how far the gradients are apart in the ball; None where gradients were not looked at.
        guaranteed: median radius that alignment guarantees, over the images that have one.
        of_own: the same as a share of the student's own radius, median.
    """

    kind: str
    share: float
    interval: tuple[float, float] | None
    teacher_curve: Curve | None
    rho: float | None = None
    guaranteed: float | None = None
    of_own: float | None = None


@dataclass(frozen=True)
class Certificate:
    """A certified model, and the teacher it was held against."""

    identity: Identity
    ground: Ground
    origin: Origin
    radii: Mapping[str, Radii]
    teacher: Identity | None = None
    against: Mapping[str, Against] = field(default_factory=dict[str, Against])
