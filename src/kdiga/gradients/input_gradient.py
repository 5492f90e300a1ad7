"""The gradient of a model's loss with respect to its input, as numbers.

To train through an input gradient see :mod:`kdiga.gradients.routes`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels
from kdiga.gradients.differentiation import by_images
from kdiga.losses import Score, score_by_name
from kdiga.model_state import frozen_statistics


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of each example's cross-entropy by its own pixels, detached.

    The model runs in the mode it is in and is left as found. In eval mode row i depends on example i
    alone; batch norm in train mode couples the examples of a batch. To train through an input
    gradient use :func:`kdiga.align`.

    Args:
        model: maps images to logits (batch, num_classes).
        images: float (batch, channel, height, width), pixels in [0, 1].
        labels: int64 (batch,).

    Returns:
        Tensor: like ``images``, in nats per pixel unit.

    Raises:
        InputError: for images of another rank, type or range, or labels that do not fit them.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> input_gradient(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(images)
    check_labels(labels, images)
    return input_gradient_and_logits(model, images, labels.long())[0]


def input_gradient_and_logits(
    model: nn.Module, images: Tensor, labels: Tensor, gradient_of: Score = "loss"
) -> tuple[Tensor, Tensor]:
    """Return :func:`input_gradient`, of any score, and the logits of the same forward pass, both detached."""
    with torch.enable_grad(), frozen_statistics(model):
        images = images.detach().requires_grad_()
        logits = model(images)
        gradient = by_images(score_by_name(gradient_of)(logits, labels), images)
    return gradient, logits.detach()
