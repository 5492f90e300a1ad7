"""Radii of examples, summed up: certified accuracy against radius, and shares with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from kdiga.statistics import clopper_pearson

POINTS = 41

Radii = Sequence[float | None]
"""One an example: 0.0 where its answer is wrong or withheld, None where no radius could be found."""


def certified_accuracy(radii: Radii, radius: float) -> float:
    """Return the share of all examples that are right and keep their answer within ``radius``.

    An example without a radius does not count as certified. At radius 0 an answer still has to be right, and its
    radius above 0.
    """
    return sum(found is not None and found > 0 and found >= radius for found in radii) / len(radii)


def curve_of(radii: Radii, end: float) -> dict[str, list[float]]:
    """Return certified accuracy at radii from 0 to ``end``, evenly spaced, as result files hold it."""
    grid = [end * place / (POINTS - 1) for place in range(POINTS)]
    return {"radius": grid, "accuracy": [certified_accuracy(radii, radius) for radius in grid]}


def median_radius(radii: Radii) -> float | None:
    """Return the median over the examples that have a radius, zeros included; None if there is none."""
    known = [radius for radius in radii if radius is not None]
    return statistics.median(known) if known else None


def share(flags: Sequence[bool]) -> tuple[float | None, list[float] | None]:
    """Return how many of the flags are set, with its 95 % Clopper-Pearson interval; None of no flags."""
    if not flags:
        return None, None
    count = sum(flags)
    return count / len(flags), list(clopper_pearson(count, len(flags)))


def as_numbers(radii: Radii) -> list[Any]:
    """Return radii as plain data."""
    return [None if radius is None else float(radius) for radius in radii]
