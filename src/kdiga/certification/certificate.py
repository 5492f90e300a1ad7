"""What the results of all certification methods share: a radius per example, and its summaries."""

from __future__ import annotations

from collections.abc import Sequence

from kdiga.statistics import clopper_pearson

CURVE_POINTS = 41

Radii = Sequence[float | None]
"""One radius per example: 0.0 for a wrong or withheld answer, None if the method finds no radius."""


class Certificate:
    """Base of the results of one model: a radius per example."""

    radius: Radii

    def accuracy(self, radius: float) -> float:
        """Return the share of all examples that are right and have at least this radius, in [0, 1]."""
        return certified_accuracy(self.radius, radius)


def certified_accuracy(radii: Radii, radius: float) -> float:
    """Return the share of all examples that are right and have at least this radius.

    An example without a radius is not certified. At radius 0 an example counts only if its radius is above 0.
    """
    return sum(found is not None and found > 0 and found >= radius for found in radii) / len(radii)


def accuracy_curve(radii: Radii, largest: float) -> dict[str, list[float]]:
    """Return certified accuracy at evenly spaced radii from 0 to ``largest``, as result files store it."""
    grid = [largest * (place / (CURVE_POINTS - 1)) for place in range(CURVE_POINTS)]
    return {"radius": grid, "accuracy": [certified_accuracy(radii, radius) for radius in grid]}


def share(flags: Sequence[bool]) -> tuple[float | None, list[float] | None]:
    """Return the share of true flags and its 95 % Clopper-Pearson interval; None for no flags."""
    if not flags:
        return None, None
    count = sum(flags)
    return count / len(flags), list(clopper_pearson(count, len(flags)))
