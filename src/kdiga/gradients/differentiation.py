"""The derivative by images, and what to say where there is none."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga.errors import InputError


def by_images(values: Tensor, images: Tensor, *, keep: bool = False, twice: bool = False) -> Tensor:
    """Return the derivative of the sum of some values by the images that they were computed from.

    Args:
        values: (batch,), of a model's logits.
        images: float (batch, channel, height, width), which asked for a gradient.
        keep: the values' graph is needed again.
        twice: the derivative needs a graph of its own.

    Raises:
        InputError: if the values do not hang together with the images, as far as autograd knows.
    """
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(
            values.sum(), images, retain_graph=keep or twice, create_graph=twice, allow_unused=True
        )
    if gradient is None:
        raise InputError(
            "a model's logits have no gradient by its images, so there is nothing to align and nothing to attack "
            "along: its forward pass, or the call, runs under torch.no_grad, detaches a tensor, or leaves PyTorch on "
            "the way. Let the gradient through."
        )
    return gradient
