"""The measures of one model in an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kdiga.analysis.bounds import Bound
from kdiga.analysis.ranking import mean_interval
from kdiga.statistics import clopper_pearson


@dataclass(frozen=True)
class ModelExplanation:
    """The measures of one model, one value per example."""

    name: str  # short name
    clean: Sequence[bool]  # whether each example is classified correctly
    robust: Sequence[bool]  # whether it still is under the attack
    notes: Sequence[str]  # warnings of the attack
    linearity: Sequence[float]  # gamma, the largest remainder found, in nats
    gradient_norm: Sequence[float]  # dual norm of the input gradient, in nats per pixel unit

    @property
    def zero_gradients(self) -> int:
        """Number of examples with an input gradient of exactly zero."""
        return sum(norm == 0 for norm in self.gradient_norm)

    def to_dict(self, attack: str, seed: int) -> dict[str, Any]:
        """Return means, intervals and values as plain data."""
        return {
            "role": "teacher",
            "name": self.name,
            "clean": fmean(self.clean),
            "robust": {
                "attack": attack,
                "accuracy": fmean(self.robust),
                "interval_95": list(clopper_pearson(sum(self.robust), len(self.robust))),
                "notes": list(self.notes),
            },
            "correct": {"clean": [int(right) for right in self.clean], attack: [int(right) for right in self.robust]},
            "linearity": {
                "mean": fmean(self.linearity),
                "interval_95": mean_interval(self.linearity, seed),
                "values": list(self.linearity),
            },
            "gradient": {"norm": fmean(self.gradient_norm), "zero": self.zero_gradients},
        }


@dataclass(frozen=True)
class StudentExplanation(ModelExplanation):
    """The measures of a student, and its agreement with its teacher."""

    cosine: Sequence[float | None]  # cosine of the input gradients of each example; None if one of them is zero
    distance: Sequence[float]  # dual norm of their difference, in nats per pixel unit
    student_bound: Bound  # bound on the rise of the loss
    transfer_bound: Bound  # bound on the distance of the losses

    @property
    def defined_cosines(self) -> list[float]:
        """All cosines that are not None."""
        return [value for value in self.cosine if value is not None]

    def to_dict(self, attack: str, seed: int) -> dict[str, Any]:
        """Return means, intervals and values as plain data."""
        found, defined = super().to_dict(attack, seed), self.defined_cosines
        found["gradient"] |= {
            "cosine": fmean(defined) if defined else None,
            "cosine_interval_95": mean_interval(defined, seed) if defined else None,
            "cosine_undefined": len(self.cosine) - len(defined),
            "distance": fmean(self.distance),
            "cosine_values": list(self.cosine),
            "distance_values": list(self.distance),
        }
        bounds = {"student": self.student_bound.to_dict(), "transfer": self.transfer_bound.to_dict()}
        return found | {"role": "student", "bounds": bounds}
