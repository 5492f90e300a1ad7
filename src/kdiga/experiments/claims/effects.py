"""How much two models differ on the same images, over several seeds: an effect with an interval over both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Outcomes = Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Effect:
    """A mean difference of outcomes.

    Args:
        mean: in [-1, 1].
        low: lower end of its 95 % interval.
        high: upper end.
        images: number of them.
        seeds: number of students.
    """

    mean: float
    low: float
    high: float
    images: int
    seeds: int

    def to_list(self) -> list[float]:
        """Return mean and interval."""
        return [self.mean, self.low, self.high]


def effect(ours: Outcomes, theirs: Outcomes, share: float = 1.0, confidence: float = 0.95) -> Effect:
    """Return the mean of ``ours - share * theirs`` with an interval over images and seeds.

    Images and seeds are crossed: every seed's student sees the same images. The variance of the mean is taken as
    the sum of the variance over images of the seeds' mean and the variance over seeds of the images' mean, which
    counts what is left of both twice and so errs on the wide side; degrees of freedom are Welch and Satterthwaite's.
    The interval counts two more images, half of one in each of the four cells of right and wrong (Agresti and Min,
    2005): without them, outcomes that never differ would claim to be certain.

    Args:
        ours: for each seed, whether each image is right.
        theirs: the same of whom it is held against; one row where that one has no seeds.
        share: of theirs that ours is held against.
        confidence: in (0, 1).

    >>> found = effect([[True] * 50 + [False] * 50], [[True] * 20 + [False] * 80])
    >>> [round(part, 2) for part in found.to_list()]
    [0.3, 0.2, 0.39]
    """
    own, others = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    differences: NDArray[np.float64] = own - share * others
    seeds, images = differences.shape
    by_image = differences.mean(0)
    padded = np.concatenate([by_image, [1.0, -share, 1.0 - share, 0.0]])
    weights = np.concatenate([np.ones(images), np.full(4, 0.5)])
    total = float(weights.sum())
    middle = float((weights * padded).sum() / total)
    over_images = float((weights * (padded - middle) ** 2).sum() / (total - 1)) / total
    over_seeds = float(differences.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    reach = math.sqrt(over_images + over_seeds)
    freedom = (over_images + over_seeds) ** 2 / (
        over_images**2 / max(images - 1, 1) + (over_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    )
    quantile = float(t.ppf((1 + confidence) / 2, freedom))
    return Effect(float(by_image.mean()), middle - quantile * reach, middle + quantile * reach, images, seeds)
