"""How long an exported file takes on this machine's CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiga.distributed.launch import one_thread
from kdiga.export.formats import Logits

BATCHES = (1, 64)
WARM_UP = 3  # calls before the first that counts: allocators and caches settle
RUNS = {1: 50, 64: 15}
LONGEST = 5.0  # seconds of one format's calls at one batch size; fewer runs count where they are slow
FEWEST = 5


@dataclass(frozen=True)
class Latency:
    """Time of a call, in milliseconds.

    Args:
        median: over the runs.
        low: lower quartile.
        high: upper quartile.
        runs: how many were timed.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the summary of some times in seconds, at least two."""
        low, median, high = (1000 * part for part in statistics.quantiles(seconds, n=4, method="inclusive"))
        return cls(median, low, high, len(seconds))


def latencies(
    calls: Mapping[str, Logits], images: Tensor, batches: Sequence[int] = BATCHES
) -> dict[str, dict[int, Latency]]:
    """Time several files beside each other, in turn, so that whatever else the machine does falls on all of them.

    Args:
        calls: by name; those that run in PyTorch are held to one thread here, others have to be of one thread already.
        images: float (example, channel, height, width), repeated to fill a batch.
        batches: numbers of images in a call.

    Returns:
        by name and by batch size.
    """
    found: dict[str, dict[int, Latency]] = {name: {} for name in calls}
    with one_thread():
        for size in batches:
            batch = images[torch.arange(size) % len(images)].contiguous()
            for name, seconds in _time(calls, batch, RUNS.get(size, FEWEST)).items():
                found[name][size] = Latency.of(seconds)
    return found


def _time(calls: Mapping[str, Logits], batch: Tensor, runs: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARM_UP + runs):
        for name, call in calls.items():
            slow = len(seconds[name]) >= FEWEST and sum(seconds[name]) > LONGEST
            if slow:
                continue
            started = time.perf_counter()
            call(batch)
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return seconds
