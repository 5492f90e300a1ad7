"""Two accuracies beside each other: their difference, and whether chance alone could make it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdiga.results.shared import Accuracy
from kdiga.statistics import paired_difference


@dataclass(frozen=True)
class Gap:
    """Of two accuracies, the first less the second.

    Args:
        value: in [-1, 1].
        low: of its 95 % interval.
        high: the same.
        paired: whether both were measured on the same images, one by one.
        assumed: the files do not name their images; the same data set and number were taken to be the same images.
        first: accuracy.
        second: accuracy.
    """

    value: float
    low: float
    high: float
    paired: bool
    assumed: bool
    first: Accuracy
    second: Accuracy

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is on one side of 0; 0 where the data cannot tell."""
        return int(self.low > 0) - int(self.high < 0)


def gap_of(first: Sequence[Accuracy], second: Sequence[Accuracy]) -> Gap | None:
    """Return the difference of two models under one attack, paired where any of their measurements allow it.

    Measurements that cannot be paired are compared by adding the squares of both intervals (Zou and Donner, 2008),
    which is too wide rather than too narrow where the images were the same after all.

    Args:
        first: measurements of the first model, those to be preferred first.
        second: of the second.
    """
    for one in first:
        for other in second:
            if one.correct and other.correct and len(one.correct) == len(other.correct) and _same_images(one, other):
                value, low, high = paired_difference(one.correct, other.correct)
                assumed = one.conditions.data_fingerprint is None or other.conditions.data_fingerprint is None
                return Gap(value, low, high, True, assumed, one, other)
    if not first or not second:
        return None
    one, other = first[0], second[0]
    value = one.value - other.value
    low = value - math.hypot(one.value - one.interval[0], other.interval[1] - other.value)
    high = value + math.hypot(one.interval[1] - one.value, other.value - other.interval[0])
    return Gap(value, max(-1.0, low), min(1.0, high), False, False, one, other)


def _same_images(one: Accuracy, other: Accuracy) -> bool:
    prints = one.conditions.data_fingerprint, other.conditions.data_fingerprint
    return prints[0] == prints[1] if None not in prints else one.conditions.data == other.conditions.data
