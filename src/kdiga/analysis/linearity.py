"""Local linearity: how far a loss leaves its tangent plane within the ball (Qin et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiga.analysis.scores import Score
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.losses import DUAL_ORDER
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class Expansion:
    """A score to first order around images: ``value + <d, gradient>``.

    Args:
        score: that is expanded.
        images: around which, float (batch, channel, height, width).
        values: of the score there, float64 (batch,).
        gradient: of the score there, like the images.
    """

    score: Score
    images: Tensor
    values: Tensor
    gradient: Tensor

    @classmethod
    def around(cls, images: Tensor, score: Score) -> Expansion:
        """Return the expansion of a score around images."""
        inputs = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = score(inputs)
            (gradient,) = torch.autograd.grad(values.sum(), inputs)
        return cls(score, images.detach(), values.detach().double(), gradient)

    def remainder(self, adv_images: Tensor) -> Tensor:
        """Return ``score(x + d) - score(x) - <d, gradient>``, signed, float64 (batch,).

        Differences of nearby numbers: they are formed in float64, whatever the score computes in.
        """
        moved = ((adv_images.double() - self.images.double()) * self.gradient.double()).flatten(1).sum(1)
        return self.score(adv_images).double() - self.values - moved

    def dual_norm(self, threat: ThreatModel) -> Tensor:
        """Return the dual norm of each gradient, float64 (batch,): per eps, the most a linear score can change."""
        return dual_norm(self.gradient, threat)


def dual_norm(gradient: Tensor, threat: ThreatModel) -> Tensor:
    """Return the norm of each example's gradient that is dual to the threat model's: L1 for Linf, L2 for L2."""
    return torch.linalg.vector_norm(gradient.flatten(1).double(), ord=DUAL_ORDER[threat.norm], dim=1)


def local_linearity(expansion: Expansion, threat: ThreatModel, search: WorstCaseSearch) -> tuple[Tensor, Tensor]:
    """Return ``gamma = max over the ball of |remainder|`` as far as the search finds it, and where.

    A lower bound of the true maximum. The search starts at random and runs once for each sign: at the image
    itself the remainder and its gradient are both zero, so an ascent from there would never move, and one on
    the absolute value would only see the side it happened to start on.

    Args:
        expansion: of the score.
        threat: the ball; adversarial images are also in [0, 1].
        search: how hard to look.

    Returns:
        tuple[Tensor, Tensor]: gamma in the score's unit, float64 (batch,), at least 0; and the images.

    >>> images = torch.full((1, 1, 1, 2), 0.5)
    >>> squares = Expansion.around(images, lambda images: images.flatten(1).square().sum(1))
    >>> gamma, _ = local_linearity(squares, ThreatModel("linf", 0.1), Search())
    >>> round(float(gamma), 4)
    0.02
    """
    return search.farthest(expansion.remainder, expansion.images, threat)
