"""The gradient of a model's loss with respect to its input, as numbers.

To train through an input gradient see :mod:`kdiga.gradients.routes`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdiga.arguments import checked
from kdiga.checks import check_images, check_logits, check_targets
from kdiga.errors import InputError
from kdiga.losses import Score, full_precision, score_by_name
from kdiga.model_output import logits_at
from kdiga.model_state import frozen_statistics


@checked
def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of each example's cross-entropy by its own pixels, detached.

    The model runs in its present mode and does not change. In eval mode row i depends on example i
    alone; batch norm in train mode couples the examples of a batch. To train through an input
    gradient use :func:`kdiga.align`.

    Args:
        model: Module that maps images to logits, float (batch, num_classes).
        images: Float (batch, channel, height, width), pixels in [0, 1].
        labels: Labels, integers in [0, num_classes), shape (batch,), or soft labels, as for :func:`kdiga.align`.

    Returns:
        Tensor: Shape of ``images``, in nats per pixel unit.

    Raises:
        InputError: for images of another rank, type or range, labels that do not fit them or the model, or logits that
            are not finite.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> input_gradient(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(images)
    return input_gradient_and_logits(model, images, check_targets(labels, images), check_values=True)[0]


def input_gradient_and_logits(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    gradient_of: Score = "loss",
    *,
    who: str = "model",
    check_values: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return :func:`input_gradient`, of any score, and the logits of the same forward pass, both detached."""
    with torch.enable_grad(), frozen_statistics(model):
        images = images.detach().requires_grad_()
        logits = check_logits(logits_at(model, images), images, who=who, values=check_values)
        check_targets(labels, images, logits.shape[1] if check_values else None)
        gradient = gradient_by_images(score_by_name(gradient_of)(logits, labels), images)
    return gradient, logits.detach()


@contextmanager
def reentrant_checkpoint_as_error() -> Generator[None]:
    """Say what to do where a reentrant activation checkpoint refuses a gradient by certain tensors."""
    try:
        yield
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise InputError(
            "a model recomputes activations by a reentrant checkpoint, which gives no gradient by images; use "
            "torch.utils.checkpoint with use_reentrant=False."
        ) from error


HALF_SCALES = (2.0**12, 2.0**6, 1.0)
"""Factors of the values in float16, where derivatives underflow; a smaller one follows where one overflows."""


def gradient_by_images(
    values: Tensor, images: Tensor, *, retain_graph: bool = False, create_graph: bool = False
) -> Tensor:
    """Return the derivative of the sum of values by the images that they were computed from.

    A loss scaler does not reach this derivative. So under autocast to float16, and for values in it, the values are
    scaled by a power of two and the result is divided by it.

    Args:
        values: Float (batch,), computed from a model's logits.
        images: Float (batch, channel, height, width), with ``requires_grad``.
        retain_graph: Whether the graph of the values is needed again.
        create_graph: Whether the derivative needs a graph.

    Raises:
        InputError: if autograd finds no graph from the values to the images, or refuses the gradient.
    """
    scales = HALF_SCALES if _in_float16(values, images) else (1.0,)
    gradient = None
    for scale in scales:
        last, total = scale == scales[-1], values.sum() if scale == 1 else full_precision(values).sum() * scale
        gradient = _derivative(total, images, retain_graph=retain_graph or not last, create_graph=create_graph)
        if gradient is None or last:
            break
        gradient = gradient / scale
        if bool(gradient.isfinite().all()):
            break
    if gradient is None:
        raise InputError(
            "a model's logits have no gradient by its images, so there is nothing to align and no direction to attack "
            "in: its forward pass, or the call, runs under torch.no_grad, detaches a tensor, or leaves PyTorch. "
            "Let the gradient through."
        )
    return gradient


def _derivative(total: Tensor, images: Tensor, *, retain_graph: bool, create_graph: bool) -> Tensor | None:
    if not total.requires_grad:
        return None
    with reentrant_checkpoint_as_error():
        (gradient,) = torch.autograd.grad(
            total, images, retain_graph=retain_graph or create_graph, create_graph=create_graph, allow_unused=True
        )
    return gradient


def _in_float16(values: Tensor, images: Tensor) -> bool:
    device = images.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return autocast or values.dtype == torch.float16
