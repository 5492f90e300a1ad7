"""What a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Args:
        epoch: from 0.
        lr: learning rate at its end.
        terms: mean unweighted value of each loss term.
        weights: coefficient of each term at the epoch's end.
        clean: validation accuracy in [0, 1]; None where the epoch was not checked.
        robust: validation accuracy under PGD in [0, 1]; None where the epoch was not checked.
        seconds: wall time, check included.
    """

    epoch: int
    lr: float
    terms: Mapping[str, float]
    weights: Mapping[str, float]
    clean: float | None
    robust: float | None
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Args:
        method: name of the method.
        history: every epoch.
        best_epoch: the epoch, from 0, whose weights were best on the validation set.
        best_state: those weights, on the CPU.
        last_state: the weights after the last epoch, on the CPU.
        minutes: wall time of training, validation included.
        seed: of the run.
        passes: forward and backward passes of student and teachers in training, validation excluded.
        choices: by setting that was left on "auto" (and the route always): what was chosen, and why.
        provenance: versions, hardware, date.
        warnings: what was noticed on the way, each with its name, the step, from 1, and a sentence.
    """

    method: str
    history: Sequence[EpochRecord]
    best_epoch: int
    best_state: Mapping[str, Tensor]
    last_state: Mapping[str, Tensor]
    minutes: float
    seed: int
    passes: Mapping[str, int]
    choices: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]
    warnings: Sequence[Mapping[str, Any]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result without the weights and all but two epochs, as plain data."""
        best, last = self.history[self.best_epoch], self.history[-1]
        return {
            "method": self.method,
            "seed": self.seed,
            "epochs": len(self.history),
            "minutes": round(self.minutes, 2),
            "passes": dict(self.passes),
            "choices": {name: dict(choice) for name, choice in self.choices.items()},
            "validation": {"best": asdict(best), "last": asdict(last)},
            "provenance": dict(self.provenance),
            "warnings": [dict(one) for one in self.warnings],
        }
