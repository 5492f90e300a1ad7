"""Resumable work on many examples, in chunks of consecutive examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units


@dataclass(frozen=True)
class Chunk:
    """Consecutive examples of one work unit, from index ``start``, and their fingerprint."""

    start: int
    images: Tensor
    labels: Tensor
    fingerprint: str


ChunkJob = tuple[Callable[[Chunk], Mapping[str, Any]], Callable[[Chunk], Any]]
"""Two functions of a chunk: one returns everything that decides the outcome, the other the outcome as plain data."""


def split_chunks(images: Tensor, labels: Tensor, size: int) -> list[Chunk]:
    """Return chunks of ``size`` examples; the last one can be smaller."""
    parts = zip(range(0, len(images), size), images.split(size), labels.split(size), strict=True)
    return [Chunk(start, part, answers, fingerprint_of_tensors(part, answers)) for start, part, answers in parts]


def run_chunks(
    task: str,
    chunks: Sequence[Chunk],
    jobs: Sequence[ChunkJob],
    result_cache: ResultCache,
    progress: OnProgress | None,
) -> list[list[Any]]:
    """Return the outcomes of each job on all chunks; the result cache provides those that are finished.

    ``progress`` is called with the task, the finished and the total number of examples, over all jobs.
    """
    work_units = [
        WorkUnit(task, key(chunk), len(chunk.images), partial(work, chunk)) for key, work in jobs for chunk in chunks
    ]
    outcomes = run_work_units(work_units, result_cache, progress)
    return [outcomes[start : start + len(chunks)] for start in range(0, len(outcomes), len(chunks))]
