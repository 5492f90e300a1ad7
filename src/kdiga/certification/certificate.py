"""What all certification methods share: radii, their summaries, and work in chunks of examples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
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
    grid = [largest * place / (CURVE_POINTS - 1) for place in range(CURVE_POINTS)]
    return {"radius": grid, "accuracy": [certified_accuracy(radii, radius) for radius in grid]}


def median_radius(radii: Radii) -> float | None:
    """Return the median of all known radii, zeros included; None if there are none."""
    known = [radius for radius in radii if radius is not None]
    return statistics.median(known) if known else None


def share(flags: Sequence[bool]) -> tuple[float | None, list[float] | None]:
    """Return the share of true flags and its 95 % Clopper-Pearson interval; None for no flags."""
    if not flags:
        return None, None
    count = sum(flags)
    return count / len(flags), list(clopper_pearson(count, len(flags)))


@dataclass(frozen=True)
class Chunk:
    """Consecutive examples that one work unit certifies.

    Args:
        start: Index of the first example.
        images: Float (example, channel, height, width).
        labels: Int (example,).
    """

    start: int
    images: Tensor
    labels: Tensor


def run_chunks(
    task: str,
    images: Tensor,
    labels: Tensor,
    size: int,
    *,
    key: Callable[[Chunk], Mapping[str, Any]],
    work: Callable[[Chunk], Any],
    folder: Path | None,
    progress: OnProgress | None,
) -> list[Any]:
    """Return the outcome of each chunk; finished chunks come from the result cache in ``folder``.

    Args:
        task: Name for ``progress``.
        images: Float (example, channel, height, width).
        labels: Int (example,).
        size: Number of examples per chunk.
        key: Everything that decides the outcome of a chunk, except its examples.
        work: Function that computes the outcome as plain data.
        folder: Folder of the result cache; None caches nothing.
        progress: Called with the task, the finished and the total number of examples.
    """
    work_units = list[WorkUnit]()
    for start in range(0, len(images), size):
        chunk = Chunk(start, images[start : start + size], labels[start : start + size])
        about = {"examples": fingerprint_of_tensors(chunk.images, chunk.labels), **key(chunk)}
        work_units.append(WorkUnit(task, about, len(chunk.images), partial(work, chunk)))
    return run_work_units(work_units, ResultCache(folder), progress)
