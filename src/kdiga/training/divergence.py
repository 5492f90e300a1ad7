"""Detection of failed training, and of the term that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdiga.errors import DivergedError
from kdiga.statistics import percent
from kdiga.training.result import EpochRecord, TrainingResult
from kdiga.training.validation import Scores
from kdiga.types import Objective

ONE_SIDED = 1.645  # standard deviations; exceeded by chance with probability 5 %
FALLEN = 0.01  # relative fall of a loss that counts
FEW_STEPS = 500
CHECK_EVERY = 50  # steps; a check waits for the device
LABEL = "label"  # the term that does not depend on a teacher


class TermLog:
    """The loss terms of an epoch, stored on the device."""

    def __init__(self, epoch: int, state: Mapping[str, Any] | None = None) -> None:
        self.epoch = epoch
        self.names: list[str] = []
        self.weights: dict[str, float] = {}
        self.rows: list[Tensor] = []
        if state is not None and state["rows"] is not None:
            self.names, self.weights, self.rows = state["names"], state["weights"], list(state["rows"])

    def state(self) -> dict[str, Any]:
        """Return the terms so far, for a new :class:`TermLog`."""
        rows = self._stacked().cpu() if self.rows else None
        return {"names": self.names, "weights": self.weights, "rows": rows}

    def add(self, objective: Objective) -> None:
        """Add the terms of a step; every :data:`CHECK_EVERY` steps, check them."""
        self.names = [term.name for term in objective.terms]
        self.weights = {term.name: term.weight for term in objective.terms}
        self.rows.append(torch.stack([term.value.detach().float() for term in objective.terms]))
        if len(self.rows) % CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """Check that every term was finite at every step.

        Raises:
            DivergedError: Message with the terms that failed at the first step with a failure.
        """
        finite = self._stacked().isfinite()
        failed = (~finite.all(1)).nonzero()
        if not len(failed):
            return
        step = int(failed[0])
        broken = [name for name, right in zip(self.names, finite[step].tolist(), strict=True) if not right]
        values = ", ".join(
            f"{name} {value:.3g}" for name, value in zip(self.names, self.rows[step].tolist(), strict=True)
        )
        several = len(broken) > 1
        failure = f"the term{'s' * several} {' and '.join(map(repr, broken))} {'are' if several else 'is'} not finite"
        # The student's own loss is finite.
        label_is_finite = LABEL in self.names and LABEL not in broken
        hint = f" The term {LABEL!r} is finite, so a signal of the teacher may not be." if label_is_finite else ""
        raise DivergedError(
            f"training diverged in epoch {self.epoch + 1}, step {step + 1}: {failure} ({values}). Lower lr or "
            f"{'their weights' if several else 'its weight'}, or set training.grad_clip to 1.{hint}"
        )

    def _stacked(self) -> Tensor:
        # Rows of an interrupted run come from a file and are on the CPU.
        return torch.stack([row.to(self.rows[-1].device) for row in self.rows])

    def means(self) -> dict[str, float]:
        """Return each term's mean over the epoch."""
        return dict(zip(self.names, self._stacked().mean(0).tolist(), strict=True))


class CollapsedError(DivergedError):
    """Training ended, because the student is no better than guessing and its loss does not fall.

    Args:
        message: Message of one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: TrainingResult | None = None  # weights so far, set by the loop


def better_than_guessing(scores: Scores) -> bool:
    """Return whether a student is better than a guess that does not depend on the image.

    Such a guess has a balanced accuracy, the mean over the classes, of 1 / (number of classes), whatever the shares of
    the classes are. The student has to be above it by a one-sided test at 5 %, which a perfect student passes on any
    number of examples. Examples of a single class show nothing, and the answer is yes.
    """
    shares = [(right / count, count) for right, count in scores.by_class if count]
    if len(shares) < 2:
        return True
    balanced = sum(share for share, _ in shares) / len(shares)
    variance = sum(share * (1 - share) / count for share, count in shares) / len(shares) ** 2
    return balanced > 1 / len(shares) + ONE_SIDED * math.sqrt(variance)


def loss_falls(terms: Mapping[str, float], weights: Mapping[str, float], history: Sequence[EpochRecord]) -> bool:
    """Return whether the labels' term, or without one the sum, is 1 % below its value halfway back."""
    if not history:
        return False
    then = history[min((len(history) + 1) // 2, len(history) - 1)].terms
    names = [LABEL] if LABEL in terms else list(terms)
    before, now = (sum(weights[name] * values.get(name, 0.0) for name in names) for values in (then, terms))
    return now < before - FALLEN * abs(before)


def describe_collapse(
    scores: Scores, epoch: int, steps: int, *, terms: Mapping[str, float], weights: Mapping[str, float]
) -> str:
    """Return what failed, with the term that weighs most apart from the labels' term, and advice that fits."""
    suspects = [name for name in terms if name != LABEL] or list(terms)
    heaviest = max(suspects, key=lambda name: weights[name] * abs(terms[name]))
    values = ", ".join(f"{name} {weights[name]:.3g} x {value:.3g}" for name, value in terms.items())
    if len(terms) == 1:
        advice = f"The only term is {heaviest!r} ({values}); lower lr, or start from trained weights."
    else:
        advice = f"The heaviest term is {heaviest!r} ({values}); lower its weight, lengthen its ramp, or lower lr."
    if steps < FEW_STEPS:
        advice += f" The run has only {steps} steps; train for more epochs, or with a smaller batch_size."
    return (
        f"training collapsed, or never took off: after epoch {epoch + 1} the student is no better than guessing "
        f"(validation accuracy {percent(scores.clean)} on {scores.examples} images). {advice} "
        "training.stop_at_chance=false trains to the end nevertheless."
    )
