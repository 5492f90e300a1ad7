"""How the benchmarks time a step and compare times."""

from __future__ import annotations

import statistics
from collections.abc import Callable

Step = Callable[[], None]


def seconds_of(step: Step, clock: Callable[[], float]) -> float:
    """Return the seconds of a step: a mean over at least 0.4 seconds."""
    start, taken = clock(), 0
    while taken < 1 or clock() - start < 0.4:
        step()
        taken += 1
    return (clock() - start) / taken


def ratios_of(above: list[float], below: list[float]) -> dict[str, float]:
    """Return median, lowest and highest ratio within a repeat."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def spread(ratios: dict[str, float]) -> str:
    """Return ratios as text."""
    return f"{ratios['median']:.2f} ({ratios['low']:.2f} - {ratios['high']:.2f})"
