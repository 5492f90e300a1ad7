"""What a step computed anyhow, noted at the few steps that are looked at closely."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class ComputedPass(Protocol):
    """A model at some images, computed as far as somebody asked."""

    def computed(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits and the input gradient, each None where nobody asked for it yet."""
        ...


class StepStatistics:
    """Remembers the points of one step, to count from them what the loss does not show.

    Nothing is computed in a method's place, so a step with a witness ends in the same bits.

    Args:
        device: where the counts are wanted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.points: list[ComputedPass] = []

    def counts(self) -> Tensor:
        """Return images with logits, those of them saturated, images with an input gradient, those whose is zero.

        Returns:
            Tensor: float (4,), without waiting for the device.
        """
        counts = torch.zeros(4, device=self.device)
        for point in self.points:
            logits, gradient = point.computed()
            if logits is not None:
                counts[0] += len(logits)
                counts[1] += saturated(logits.detach()).sum()
            if gradient is not None:
                counts[2] += len(gradient)
                counts[3] += without_slope(gradient.detach()).sum()
        return counts


def saturated(logits: Tensor) -> Tensor:
    """Return for each example whether the softmax of its logits is exactly one-hot in float32.

    The largest logit is then more than 103 above every other one, and the loss has no slope where it is right.
    """
    return (logits.float().softmax(1) > 0).sum(1) == 1


def without_slope(gradient: Tensor) -> Tensor:
    """Return for each example whether its input gradient is exactly zero."""
    return (gradient == 0).flatten(1).all(1)
