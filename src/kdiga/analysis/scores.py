"""The number an analysis follows through the ball: one an example, checked, and differentiable whatever the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels
from kdiga.errors import InputError
from kdiga.losses import cross_entropy
from kdiga.runs.fingerprints import printed

Score = Callable[[Tensor], Tensor]
"""Maps images (batch, channel, height, width) to one value an example, (batch,), each of its own image alone."""


class Connected(nn.Module):
    """A model with the same logits that has a gradient by its input even where the model has none: zero.

    A model that ignores its input, or rounds it, has logits without a graph; autograd then raises where the
    honest answer is a zero gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __repr__(self) -> str:
        return f"connected({printed(self.model)})"  # a fingerprint of it contains no name of a class of kdiga

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's logits."""
        return self.model(images) + 0 * images.flatten(1).sum(1, keepdim=True)


def loss_of(model: nn.Module, labels: Tensor) -> Score:
    """Return the cross-entropy of a model with these labels, in nats, as a score.

    Args:
        model: maps images to logits (batch, num_classes).
        labels: int64 (batch,).

    Raises:
        InputError: when it is called and the logits are not finite.
    """
    connected = Connected(model)

    def score(images: Tensor) -> Tensor:
        return cross_entropy(_finite(connected(images)), labels)

    return score


@torch.no_grad()
def checked_logits(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the logits of a model, after checking images, labels and logits against each other.

    Raises:
        InputError: for no example, images or labels out of range, or something other than finite logits.
    """
    check_images(images)
    check_labels(labels, images)
    if not len(images):
        raise InputError("the data held no example; give at least one image and its label.")
    logits = model(images)
    if logits.dim() != 2 or len(logits) != len(images):
        raise InputError(f"the model returned shape {tuple(logits.shape)}; it must be (batch, num_classes) logits.")
    check_labels(labels, images, logits.shape[1])
    return _finite(logits)


def _finite(logits: Tensor) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise InputError("the model returned logits that are not finite; its weights are damaged or diverged.")
    return logits
