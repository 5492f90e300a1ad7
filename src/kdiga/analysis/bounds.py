"""Two bounds on the effect of the ball on a student's loss, term by term, and the worst case that a search found.

For every ``d`` of the ball, with ``r(d)`` the remainder of a loss to first order, ``g`` its input gradient and
``q`` the dual norm::

    student bound    l_s(x+d) - l_s(x)         <= gamma_s + eps ||g_t||_q + eps ||g_s - g_t||_q
    transfer bound   |l_s(x+d) - l_t(x+d)|     <= |l_s - l_t|(x) + eps ||g_s - g_t||_q + gamma_s + gamma_t

Both follow from the triangle inequality and Hoelder's inequality, and hold for the true ``gamma = max |r|``. A search
finds at most that. If the remainder at the attacked image is larger, it replaces gamma, so the bounds hold there by
construction: violations test this software and say nothing about the models. The evidence is how tight the bounds are,
and how they rank students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

ROUNDING = 1e-4  # relative rounding of float32 pixels and losses


@dataclass(frozen=True)
class Bound:
    """A bound on the loss of one student in nats, and the measured worst case."""

    terms: Mapping[str, Sequence[float]]  # terms of the bound by name, one value per example; their sum is the bound
    measured: Sequence[float]  # worst case that a search found, one value per example

    @property
    def values(self) -> list[float]:
        """Bound of each example."""
        return [sum(each) for each in zip(*self.terms.values(), strict=True)]

    @property
    def mean(self) -> float:
        """Mean of the bound over examples."""
        return fmean(self.values)

    @property
    def tightness(self) -> float | None:
        """Mean measured worst case over mean bound, in [0, 1]; None for a bound of 0."""
        return fmean(self.measured) / self.mean if self.mean > 0 else None

    @property
    def violations(self) -> int:
        """Number of examples with a measured worst case above the bound, beyond rounding."""
        pairs = zip(self.measured, self.values, strict=True)
        return sum(measured > value * (1 + ROUNDING) + ROUNDING for measured, value in pairs)

    @property
    def largest_term(self) -> tuple[str, float | None]:
        """Term with the largest mean, and its share of the bound; None for a bound of 0."""
        means = {name: fmean(values) for name, values in self.terms.items()}
        name = max(means, key=lambda term: means[term])
        return name, means[name] / self.mean if self.mean > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the means and the median tightness of single examples as plain data."""
        each = [measured / value for measured, value in zip(self.measured, self.values, strict=True) if value > 0]
        return {
            "mean": self.mean,
            "pieces": {name: fmean(values) for name, values in self.terms.items()},
            "measured": fmean(self.measured),
            "tightness": self.tightness,
            "tightness_median": median(each) if each else None,
        }


def student_bound(
    eps: float,
    *,
    linearity: Sequence[float],
    teacher_gradient: Sequence[float],
    distance: Sequence[float],
    measured: Sequence[float],
) -> Bound:
    """Return the student bound: the largest rise of the student's loss.

    ``linearity`` is gamma of the student; ``teacher_gradient`` and ``distance`` are the dual norms of the teacher's
    gradients and of the differences of the gradients; ``measured`` is what a search found.
    """
    terms = {
        "linearity": linearity,
        "teacher_gradient": [eps * norm for norm in teacher_gradient],
        "gradient_distance": [eps * norm for norm in distance],
    }
    return Bound(terms, measured)


def transfer_bound(
    eps: float,
    *,
    clean_gap: Sequence[float],
    distance: Sequence[float],
    student_linearity: Sequence[float],
    teacher_linearity: Sequence[float],
    measured: Sequence[float],
) -> Bound:
    """Return the transfer bound: the largest distance of the two losses anywhere in the ball.

    It has two sides, so a student that is better than its teacher has a larger bound too. ``clean_gap`` is the distance
    of the losses at the clean image, the linearities are each model's gamma, and the rest is as in
    :func:`student_bound`.
    """
    terms = {
        "clean_gap": clean_gap,
        "gradient_distance": [eps * norm for norm in distance],
        "student_linearity": student_linearity,
        "teacher_linearity": teacher_linearity,
    }
    return Bound(terms, measured)
