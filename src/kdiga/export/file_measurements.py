"""Measurements of an exported file: does it compute what the model computes, how fast, and how accurate is it?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdiga.distributed.launch import one_thread
from kdiga.errors import InputError
from kdiga.evaluation import AttackResult
from kdiga.export.exported_files import ExportedFile
from kdiga.export.formats import Logits
from kdiga.statistics import clopper_pearson

TOLERANCE = 1e-4
"""Difference of a logit as a share of the largest one (or of 1); float32 sums in another order stay well below it."""
BATCH_SIZE = 250
LATENCY_BATCHES = (1, 64)
WARM_UP = 3  # calls that do not count, while allocators and caches settle
RUNS = {1: 50, 64: 15}
LONGEST = 5.0  # seconds of one file's calls at one batch size; slow files get fewer runs
FEWEST = 5
WORST = "worst"


@dataclass(frozen=True)
class OutputAgreement:
    """How close the logits of a file are to those of its model.

    The largest logit is the model's, in absolute value; ``same_class`` has an entry for each image.
    """

    largest_difference: float
    largest_logit: float
    same_class: tuple[bool, ...]

    def check_close(self, what: str) -> None:
        """Check that the file computes the model's function.

        Raises:
            InputError: If a logit differs by more than rounding, or is not finite.
        """
        if not self.largest_difference <= TOLERANCE * max(1.0, self.largest_logit):  # NaN is refused too
            raise InputError(
                f"the {what} file does not compute what the model does: a logit differs by "
                f"{self.largest_difference:.3g}, where the largest is {self.largest_logit:.3g} and {TOLERANCE:g} of it "
                "is allowed. Export to another format; this one translates a part of the network differently."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the agreement as plain data, with its 95 % Clopper-Pearson interval."""
        same, examples = sum(self.same_class), len(self.same_class)
        return {
            "largest_difference": self.largest_difference,
            "largest_logit": self.largest_logit,
            "same_class": same / examples,
            "interval_95": list(clopper_pearson(same, examples)),
            "examples": examples,
        }


def logits_of(call: Logits, images: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the logits (example, classes) of many images in [0, 1], float32, on the CPU."""
    with torch.no_grad():
        return torch.cat([call(part).detach().float().cpu() for part in images.split(batch_size)])


def agreement(of_file: Tensor, of_model: Tensor) -> OutputAgreement:
    """Compare logits (example, classes) of a file with those of its model on the same images."""
    if of_file.shape != of_model.shape:
        raise InputError(
            f"the file returned logits of shape {tuple(of_file.shape)}, the model {tuple(of_model.shape)}."
        )
    same: Sequence[bool] = (of_file.argmax(1) == of_model.argmax(1)).tolist()
    return OutputAgreement(float((of_file - of_model).abs().max()), float(of_model.abs().max()), tuple(same))


@dataclass(frozen=True)
class Latency:
    """Duration of a call in milliseconds: median, lower and upper quartile over the timed runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the summary of at least two durations in seconds."""
        low, median, high = (1000 * part for part in statistics.quantiles(seconds, n=4, method="inclusive"))
        return cls(median, low, high, len(seconds))


def latencies(
    calls: Mapping[str, Logits], images: Tensor, batches: Sequence[int] = LATENCY_BATCHES
) -> dict[str, dict[int, Latency]]:
    """Time several files in turn, so that other work on the machine affects all of them, by name and batch size.

    Images are repeated to fill a batch. PyTorch runs in one thread here; other runtimes must already do so.
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
    for run in range(WARM_UP + runs):
        for name, call in calls.items():
            if len(seconds[name]) >= FEWEST and sum(seconds[name]) > LONGEST:
                continue
            started = time.perf_counter()
            call(batch)
            if run >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return seconds


@dataclass(frozen=True)
class FileMeasurements:
    """A file and its measurements."""

    file: ExportedFile  # the file
    agreement: OutputAgreement | None = None  # agreement with the model in PyTorch; None for the model itself
    # Results by attack, "clean" included.
    results: Mapping[str, AttackResult] = field(default_factory=dict[str, AttackResult])
    # Name of the format with the same function, bit for bit, whose measurements these are; "" if measured.
    same_as: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        results = self.results.items()
        return {
            "file": "" if self.file.path is None else self.file.path.name,
            "bytes": self.file.size,
            "runtime": self.file.runtime,
            "sha256": self.file.digest,
            "same_as": self.same_as,
            **({} if self.agreement is None else {"agreement": self.agreement.to_dict()}),
            "accuracy": {name: result.accuracy for name, result in results},
            "interval_95": {name: list(result.interval) for name, result in results},
            "examples": {name: len(result.correct) for name, result in results},
            "correct": {name: [int(one) for one in result.correct] for name, result in results},
        }


def with_worst(results: Mapping[str, AttackResult]) -> dict[str, AttackResult]:
    """Return results with the worst case over all of them, on the examples that all of them used."""
    count = min(len(result.correct) for result in results.values())
    correct = tuple(all(result.correct[row] for result in results.values()) for row in range(count))
    return {**results, WORST: AttackResult(WORST, correct, 0.0)}
