"""What an evaluation found, example by example, with what is needed to believe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdiga.evaluation.masking.finding import Finding
from kdiga.statistics import clopper_pearson
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class AttackResult:
    """What one attack left standing.

    Args:
        attack: its name.
        correct: for each example, whether it is still classified correctly.
        seconds: the work's time, of all processes that shared it together.
        notes: what the attack found suspicious.
        stages: accuracy after each stage of the attack, by its name: AutoAttack's attacks, PGD's restarts.
    """

    attack: str
    correct: tuple[bool, ...]
    seconds: float
    notes: Sequence[str] = ()
    stages: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def accuracy(self) -> float:
        """Share of all examples still right, in [0, 1]."""
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the accuracy."""
        return clopper_pearson(sum(self.correct), len(self.correct))


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of one model under one threat model.

    Args:
        threat: norm and eps.
        results: one an attack, by name.
        seed: of the attacks.
        provenance: versions, hardware, date.
        findings: reasons to doubt all of it: a model that ignores its input, or is randomised.
    """

    threat: ThreatModel
    results: Mapping[str, AttackResult]
    seed: int
    provenance: Mapping[str, Any]
    findings: Sequence[Finding] = ()

    @property
    def examples(self) -> int:
        """How many examples were looked at."""
        return len(next(iter(self.results.values())).correct)

    def __getitem__(self, attack: str) -> float:
        """Return the accuracy under an attack, in [0, 1]."""
        return self.results[attack].accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        results = self.results.items()
        return {
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "examples": self.examples,
            "seed": self.seed,
            "accuracy": {name: result.accuracy for name, result in results},
            "interval_95": {name: list(result.interval) for name, result in results},
            "seconds": {name: round(result.seconds, 1) for name, result in results},
            "notes": {name: list(result.notes) for name, result in results if result.notes},
            "stages": {name: dict(result.stages) for name, result in results if len(result.stages) > 1},
            "correct": {name: [int(right) for right in result.correct] for name, result in results},
            "findings": [finding.to_dict() for finding in self.findings],
            "provenance": dict(self.provenance),
        }
