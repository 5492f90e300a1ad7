"""Two bounds on what the ball does to a student's loss, piece by piece, beside the worst that was measured.

For every ``d`` of the ball, with ``r(d)`` the remainder of a loss to first order, ``g`` its input gradient and
``q`` the dual norm::

    student bound    l_s(x+d) - l_s(x)         <= gamma_s + eps ||g_t||_q + eps ||g_s - g_t||_q
    transfer bound   |l_s(x+d) - l_t(x+d)|     <= |l_s - l_t|(x) + eps ||g_s - g_t||_q + gamma_s + gamma_t

Both are the triangle inequality and Hoelder's, and hold for the true ``gamma = max |r|``. A search finds at most
that; where the remainder at the attacked image is larger, it is taken instead, and then the bounds hold at that
image by construction. That they are never violated tests this software and says nothing about the models.
Evidence is how tight they are and how they rank students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

ROUNDING = 1e-4  # relative; pixels and losses are float32


@dataclass(frozen=True)
class Bound:
    """A bound on one student's loss in nats, and what was measured.

    Args:
        pieces: by name, one value an example; they add up to the bound.
        measured: the worst that a search found, one value an example.
    """

    pieces: Mapping[str, Sequence[float]]
    measured: Sequence[float]

    @property
    def values(self) -> list[float]:
        """The bound of each example."""
        return [sum(parts) for parts in zip(*self.pieces.values(), strict=True)]

    @property
    def mean(self) -> float:
        """The bound, a mean over examples."""
        return fmean(self.values)

    @property
    def tightness(self) -> float | None:
        """Mean measured over mean bound, in [0, 1]: 1 where the bound says all. None where the bound is 0."""
        return fmean(self.measured) / self.mean if self.mean > 0 else None

    @property
    def violations(self) -> int:
        """Number of examples on which the measured worst exceeds the bound by more than rounding does."""
        pairs = zip(self.measured, self.values, strict=True)
        return sum(measured > value * (1 + ROUNDING) + ROUNDING for measured, value in pairs)

    @property
    def largest_piece(self) -> tuple[str, float | None]:
        """The piece that is largest on the mean, and its share of the bound."""
        means = {name: fmean(values) for name, values in self.pieces.items()}
        name = max(means, key=lambda piece: means[piece])
        return name, means[name] / self.mean if self.mean > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return means as plain data, and the median of the examples' own tightness."""
        each = [measured / value for measured, value in zip(self.measured, self.values, strict=True) if value > 0]
        return {
            "mean": self.mean,
            "pieces": {name: fmean(values) for name, values in self.pieces.items()},
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
    """Return the student bound: what its loss may rise by, from the teacher's gradient and the gap between both.

    Args:
        eps: of the ball.
        linearity: the student's gamma.
        teacher_gradient: dual norms of the teacher's gradients.
        distance: dual norms of the differences between the two gradients.
        measured: largest rise of the student's loss found.
    """
    pieces = {
        "linearity": linearity,
        "teacher_gradient": [eps * norm for norm in teacher_gradient],
        "gradient_distance": [eps * norm for norm in distance],
    }
    return Bound(pieces, measured)


def transfer_bound(
    eps: float,
    *,
    clean_gap: Sequence[float],
    distance: Sequence[float],
    student_linearity: Sequence[float],
    teacher_linearity: Sequence[float],
    measured: Sequence[float],
) -> Bound:
    """Return the transfer bound: how far the two losses may be apart anywhere in the ball.

    It has two sides, so it also counts against a student that is better than its teacher.

    Args:
        eps: of the ball.
        clean_gap: how far they are apart on the image itself.
        distance: dual norms of the differences between the two gradients.
        student_linearity: the student's gamma.
        teacher_linearity: the teacher's gamma.
        measured: the largest distance found.
    """
    pieces = {
        "clean_gap": clean_gap,
        "gradient_distance": [eps * norm for norm in distance],
        "student_linearity": student_linearity,
        "teacher_linearity": teacher_linearity,
    }
    return Bound(pieces, measured)
