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
class GradientAgreement:
    """Agreement of the input gradients of a student and its teacher."""

    cosine: Sequence[float | None]  # cosine of each example; None if one of the gradients is zero
    distance: Sequence[float]  # dual norm of the difference of each example, in nats per pixel unit

    @property
    def defined(self) -> list[float]:
        """All cosines that are not None."""
        return [value for value in self.cosine if value is not None]


@dataclass(frozen=True)
class ModelExplanation:
    """The measures of one model, one value per example."""

    name: str  # short name
    clean: Sequence[bool]  # whether each example is classified correctly
    robust: Sequence[bool]  # whether it still is under the attack
    notes: Sequence[str]  # warnings of the attack
    linearity: Sequence[float]  # gamma, the largest remainder found, in nats
    gradient_norm: Sequence[float]  # dual norm of the input gradient, in nats per pixel unit
    agreement: GradientAgreement | None = None  # agreement with the teacher; None for the teacher itself
    student_bound: Bound | None = None  # bound on the rise of the loss; None for the teacher
    transfer_bound: Bound | None = None  # bound on the distance of the losses; None for the teacher

    @property
    def zero_gradients(self) -> int:
        """Number of examples with an input gradient of exactly zero."""
        return sum(norm == 0 for norm in self.gradient_norm)

    def to_dict(self, attack: str, seed: int) -> dict[str, Any]:
        """Return means, intervals and values as plain data."""
        found: dict[str, Any] = {
            "role": "teacher" if self.agreement is None else "student",
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
        if self.agreement is not None:
            defined = self.agreement.defined
            found["gradient"] |= {
                "cosine": fmean(defined) if defined else None,
                "cosine_interval_95": mean_interval(defined, seed) if defined else None,
                "cosine_undefined": len(self.agreement.cosine) - len(defined),
                "distance": fmean(self.agreement.distance),
                "cosine_values": list(self.agreement.cosine),
                "distance_values": list(self.agreement.distance),
            }
        if self.student_bound is not None and self.transfer_bound is not None:
            found["bounds"] = {"student": self.student_bound.to_dict(), "transfer": self.transfer_bound.to_dict()}
        return found
