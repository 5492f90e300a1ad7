"""Detection of failed training, and of the term that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdiga.errors import DivergedError
from kdiga.types import Objective

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


def check_above_chance(
    correct: int,
    examples: int,
    shares: Sequence[float],
    epoch: int,
    *,
    terms: Mapping[str, float],
    weights: Mapping[str, float],
) -> None:
    """Check that validation accuracy is above the accuracy of guessing.

    Guessing the most frequent class has an accuracy equal to its share, with a binomial spread. A model within three
    standard deviations of it counts as collapsed.

    Raises:
        DivergedError: Message with the term that weighs most, apart from the labels' term.
    """
    chance = max(shares)
    spread = math.sqrt(chance * (1 - chance) / examples)
    if correct / examples > chance + 3 * spread:
        return
    suspects = [name for name in terms if name != LABEL] or list(terms)
    heaviest = max(suspects, key=lambda name: weights[name] * abs(terms[name]))
    values = ", ".join(f"{name} {weights[name]:.3g} x {value:.3g}" for name, value in terms.items())
    raise DivergedError(
        f"training collapsed, or never took off: validation accuracy {correct / examples:.1%} after epoch {epoch + 1} "
        f"is no better than guessing ({chance:.1%}). The heaviest term is {heaviest!r} ({values}); lower its weight, "
        "lengthen its ramp, lower lr, or train longer. No weights were saved as a result."
    )
