"""Input gradients of a score: local linearity (Qin et al., 2019), and the agreement of two models' gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdiga.analysis.worst_case import Score, WorstCaseSearch
from kdiga.errors import InputError
from kdiga.losses import DUAL_ORDER
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class Expansion:
    """First-order expansion of a score around images: ``value + <d, gradient>``."""

    score: Score  # the score
    images: Tensor  # images of the expansion, float (batch, channel, height, width)
    values: Tensor  # values of the score at the images, float64 (batch,)
    gradient: Tensor  # gradient of the score at the images, same shape as the images

    @classmethod
    def around(cls, images: Tensor, score: Score) -> Expansion:
        """Return the expansion of a score around images."""
        inputs = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = score(inputs)
            (gradient,) = torch.autograd.grad(values.sum(), inputs)
        if not bool(gradient.isfinite().all()):
            raise InputError(
                "an input gradient of a model is not finite, so it has no linear approximation; fix the model: a "
                "division by zero, a root or a logarithm of zero, an overflow."
            )
        return cls(score, images.detach(), values.detach().double(), gradient)

    def remainder(self, adv_images: Tensor) -> Tensor:
        """Return ``score(x + d) - score(x) - <d, gradient>``, signed, float64 (batch,).

        The differences of nearby numbers are in float64 for every precision of the score.
        """
        linear = ((adv_images.double() - self.images.double()) * self.gradient.double()).flatten(1).sum(1)
        return self.score(adv_images).double() - self.values - linear


def dual_norm(gradient: Tensor, threat: ThreatModel) -> Tensor:
    """Return the dual norm of the gradient of each example, float64 (batch,): L1 for Linf, L2 for L2.

    It is the largest change of a linear score per eps.
    """
    return torch.linalg.vector_norm(gradient.flatten(1).double(), ord=DUAL_ORDER[threat.norm], dim=1)


def local_linearity(expansion: Expansion, threat: ThreatModel, search: WorstCaseSearch) -> tuple[Tensor, Tensor]:
    """Return ``gamma = max over the ball of |remainder|`` that the search finds, and its images.

    Gamma is a lower bound of the true maximum. The search starts at random, because the remainder and its gradient are
    zero at the image itself. It runs once for each sign, because an ascent on the absolute value stays at one sign.

    Returns:
        tuple[Tensor, Tensor]: Gamma in the unit of the score, float64 (batch,), at least 0; and the images, which are
            in the ball and in [0, 1].

    >>> images = torch.full((1, 1, 1, 2), 0.5)
    >>> squares = Expansion.around(images, lambda images: images.flatten(1).square().sum(1))
    >>> gamma, _ = local_linearity(squares, ThreatModel("linf", 0.1), WorstCaseSearch())
    >>> round(float(gamma), 4)
    0.02
    """
    return search.largest_absolute(expansion.remainder, expansion.images, threat)


def cosines(a: Tensor, b: Tensor) -> tuple[float | None, ...]:
    """Return the cosine of the two gradients of each example; None if one of them is exactly zero.

    A zero gradient has no direction. A cosine of 0 would mean gradients at a right angle. Both gradients have the shape
    of the images.

    >>> cosines(torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]]), torch.tensor([[[[6.0, 8.0]]], [[[1.0, 0.0]]]]))
    (1.0, None)
    """
    first, second = a.flatten(1).double(), b.flatten(1).double()
    lengths = [torch.linalg.vector_norm(gradient, dim=1) for gradient in (first, second)]
    defined = (lengths[0] > 0) & (lengths[1] > 0)
    # Both are normalised first: the product of two very small lengths would be zero.
    units = [
        gradient / length.clamp_min(1e-300)[:, None] for gradient, length in zip((first, second), lengths, strict=True)
    ]
    values = (units[0] * units[1]).sum(1).clamp(-1, 1)
    return tuple(value if there else None for value, there in zip(values.tolist(), defined.tolist(), strict=True))


def gradient_distance(a: Tensor, b: Tensor, threat: ThreatModel) -> Tensor:
    """Return the dual norm of the difference of the two gradients of each example, float64 (batch,).

    Times eps, it is the largest change of the difference of two linear losses within the ball.
    """
    return dual_norm(a.double() - b.double(), threat)
