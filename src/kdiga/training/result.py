"""The result of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdiga.display import Displayed, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VALIDATED = ("clean", "robust", "seconds")  # columns of a summary


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Args:
        epoch: Number of the epoch, from 0.
        lr: Learning rate at the end of the epoch.
        terms: Mean unweighted value of each loss term.
        weights: Coefficient of each term at the end of the epoch.
        clean: Validation accuracy in [0, 1]; None for an epoch without a check.
        robust: Validation accuracy under PGD in [0, 1]; None for an epoch without a check.
        seconds: Wall time, with the check.
    """

    epoch: int
    lr: float
    terms: Mapping[str, float]
    weights: Mapping[str, float]
    clean: float | None
    robust: float | None
    seconds: float


@dataclass(frozen=True, repr=False)
class TrainingResult(Displayed):
    """A finished run.

    Args:
        method: Name of the method.
        history: Records of all epochs.
        best_epoch: Epoch with the best weights on the validation set, from 0.
        best_state: Weights of the best epoch, on the CPU.
        last_state: Weights after the last epoch, on the CPU.
        minutes: Wall time of training and validation.
        seed: Seed of the run.
        passes: Number of forward and backward passes of student and teachers in training, without validation.
        choices: Chosen value and reason, by setting that was "auto"; always for the route.
        provenance: Versions, hardware, date.
        warnings: Warnings of the run, each with its name, its step, from 1, and its text.
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

    def _summary(self) -> Summary:
        rows = [_row(record) for record in self.history]
        title = f"{self.method}, {len(rows)} epochs, seed {self.seed}, {self.minutes:.1f} minutes"
        if self.warnings:
            title += f"; warnings: {', '.join(str(one['name']) for one in self.warnings)}"
        best = {"epoch": f"best, {self.best_epoch + 1}"} | {key: rows[self.best_epoch][key] for key in VALIDATED}
        last = {"epoch": f"last, {len(rows)}"} | {key: rows[-1][key] for key in VALIDATED}
        return Summary(title, rows, shown=[best, last])

    def _draw(self, axes: Axes) -> None:
        """Draw validation accuracy over the epochs."""
        for name in ("clean", "robust"):
            known = [(one.epoch + 1, value) for one in self.history if (value := getattr(one, name)) is not None]
            axes.plot(*zip(*known, strict=True), label=name) if known else None
        axes.axvline(self.best_epoch + 1, color="#999999", linestyle=":", label="best")
        axes.set(xlabel="epoch", ylabel="validation accuracy", title=self.method)
        axes.legend()


def _row(record: EpochRecord) -> dict[str, Any]:
    """Return an epoch, numbered from 1, for a table."""
    terms = {f"term {name}": value for name, value in record.terms.items()}
    return {"epoch": record.epoch + 1, "lr": record.lr, **terms} | {key: getattr(record, key) for key in VALIDATED}
