"""What an exported file is worth on test images: clean, attacked, and the worst of it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdiga.evaluation import AttackResult
from kdiga.export.agreement import OutputAgreement
from kdiga.export.latency import Latency

WORST = "worst"


@dataclass(frozen=True)
class Judged:
    """A file and its figures.

    Args:
        name: of its format.
        file: its name within the folder; "" for the model in PyTorch itself.
        size: in bytes, of all that belongs to it.
        runtime: what ran it, with its version.
        digest: of its bytes.
        agreement: with the model in PyTorch.
        results: by attack, "clean" among them.
        latency: by batch size.
        same_as: name of the format whose function it is bit for bit, so that it was not measured again; "" if it was.
    """

    name: str
    file: str
    size: int
    runtime: str
    digest: str
    agreement: OutputAgreement | None = None
    results: Mapping[str, AttackResult] = field(default_factory=dict[str, AttackResult])
    latency: Mapping[int, Latency] = field(default_factory=dict[int, Latency])
    same_as: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        about: dict[str, Any] = {
            "file": self.file,
            "bytes": self.size,
            "runtime": self.runtime,
            "sha256": self.digest,
            "same_as": self.same_as,
        }
        if self.agreement is not None:
            found = self.agreement
            about["agreement"] = {
                "largest_difference": found.largest_difference,
                "largest_logit": found.largest_logit,
                "same_class": found.share,
                "interval_95": list(found.interval),
                "examples": len(found.same_class),
            }
        about["accuracy"] = {name: result.accuracy for name, result in self.results.items()}
        about["interval_95"] = {name: list(result.interval) for name, result in self.results.items()}
        about["examples"] = {name: len(result.correct) for name, result in self.results.items()}
        about["correct"] = {name: [int(one) for one in result.correct] for name, result in self.results.items()}
        about["latency_ms"] = {str(size): vars(found) for size, found in self.latency.items()}
        return about


def with_worst(results: Mapping[str, AttackResult]) -> dict[str, AttackResult]:
    """Return results with the worst case over all of them, on the examples that every one of them saw."""
    count = min(len(result.correct) for result in results.values())
    right = tuple(all(result.correct[row] for result in results.values()) for row in range(count))
    return {**results, WORST: AttackResult(WORST, right, 0.0)}
