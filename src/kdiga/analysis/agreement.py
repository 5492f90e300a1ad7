"""Whether the input gradients of two models agree: the angle between them, and their distance."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga.analysis.linearity import dual_norm
from kdiga.types import ThreatModel


def cosines(a: Tensor, b: Tensor) -> tuple[float | None, ...]:
    """Return the cosine of each example's two gradients; None where one of them is exactly zero.

    A zero gradient points nowhere. Counted as 0 it would pass for gradients at a right angle.

    Args:
        a: gradients, (batch, channel, height, width).
        b: gradients of the same images.

    >>> cosines(torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]]), torch.tensor([[[[6.0, 8.0]]], [[[1.0, 0.0]]]]))
    (1.0, None)
    """
    first, second = a.flatten(1).double(), b.flatten(1).double()
    lengths = [torch.linalg.vector_norm(gradient, dim=1) for gradient in (first, second)]
    defined = (lengths[0] > 0) & (lengths[1] > 0)
    # Each is brought to length 1 first: the product of two very small lengths would be zero.
    units = [
        gradient / length.clamp_min(1e-300)[:, None] for gradient, length in zip((first, second), lengths, strict=True)
    ]
    values = (units[0] * units[1]).sum(1).clamp(-1, 1)
    return tuple(value if there else None for value, there in zip(values.tolist(), defined.tolist(), strict=True))


def gradient_distance(a: Tensor, b: Tensor, threat: ThreatModel) -> Tensor:
    """Return the dual norm of the difference of each example's gradients, float64 (batch,).

    Times eps it is the most by which the linear parts of two losses can move apart within the ball.
    """
    return dual_norm(a.double() - b.double(), threat)
