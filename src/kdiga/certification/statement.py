"""What gradient alignment guarantees of a student's radius, example by example.

For an example of class c let ``m_j = (f_c - f_j)(x)`` be the student's margins, ``L_j`` the largest
``||grad (f_c - f_j)||_q`` of the teacher in the ball of radius R, and ``rho_j`` the largest dual norm in it of the
difference between student's and teacher's gradients of ``f_c - f_j``. The student's gradients are then nowhere longer
than ``L_j + rho_j``, so by Hein and Andriushchenko (2017) its answer holds within

    min(R, min_j m_j / (L_j + rho_j)).

With perfect alignment, ``rho_j = 0``, and the teacher's margins this is the teacher's own Lipschitz radius. How much of
it is left is what is measured here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdiga.certification.certificate import Radii, as_numbers, share
from kdiga.certification.clever import smallest_ratio

ROUNDING = 1e-6  # relative: what float32 margins may differ by


@dataclass(frozen=True)
class Statement:
    """What alignment guarantees, one value an example; None where the student is wrong or a fit failed.

    Each is of the class that decides the guaranteed radius.

    Args:
        radius: guaranteed radius; 0.0 where the student is wrong.
        rho: difference of the gradients.
        teacher_lipschitz: of the teacher's margin.
        margin_gap: student's margin less the teacher's, in logits.
    """

    radius: Radii
    rho: Radii
    teacher_lipschitz: Radii
    margin_gap: Radii

    def to_dict(self, measured: Radii) -> dict[str, Any]:
        """Return everything as plain data, with a summary.

        Args:
            measured: the student's own radii, found in the same way.
        """
        ratios = [rho / constant for rho, constant in _pairs(self.rho, self.teacher_lipschitz) if constant > 0]
        both = [pair for pair in _pairs(self.radius, measured) if pair[0] > 0]
        kept = [guaranteed / found for guaranteed, found in both if found > 0]
        within, interval = share([guaranteed <= found * (1 + ROUNDING) for guaranteed, found in both])
        return {
            "guaranteed_radius": as_numbers(self.radius),
            "rho": as_numbers(self.rho),
            "teacher_lipschitz": as_numbers(self.teacher_lipschitz),
            "margin_gap": as_numbers(self.margin_gap),
            "alignment": {
                "known": sum(radius is not None and radius > 0 for radius in self.radius),
                "failed": sum(radius is None for radius in self.radius),
                "median_rho_over_lipschitz": _median(ratios),
                "median_margin_gap": _median([gap for gap in self.margin_gap if gap is not None]),
                "median_guaranteed_over_measured": _median(kept),
                "share_within_measured": within,
                "share_within_measured_95": interval,
            },
        }


def statement_of(
    margins: Tensor,
    teacher_margins: Tensor,
    correct: Tensor,
    constants: tuple[Tensor, Tensor],
    at_least: Tensor,
    most: float,
) -> Statement:
    """Return what alignment guarantees.

    Args:
        margins: float64 (example, num_classes - 1), the student's.
        teacher_margins: likewise.
        correct: bool (example,), where the student is right.
        constants: ``L_j`` and ``rho_j``, each (example, num_classes - 1), NaN where unknown.
        at_least: (example, num_classes - 1): what ``L_j + rho_j`` is at least, where it is unknown.
        most: the radius of the ball.
    """
    taught, gap = constants
    radius, rho, lipschitz, apart = (list[float | None]() for _ in range(4))
    for row in range(len(margins)):
        limit, place = 0.0, None
        if correct[row]:
            limit, place = smallest_ratio(margins[row], (taught + gap)[row], at_least[row], most)
        radius.append(limit)
        for values, found in ((rho, gap), (lipschitz, taught), (apart, margins - teacher_margins)):
            values.append(None if place is None else float(found[row, place]))
    return Statement(tuple(radius), tuple(rho), tuple(lipschitz), tuple(apart))


def _pairs(one: Radii, two: Radii) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
