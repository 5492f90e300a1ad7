"""The gradient of a loss with respect to its input, as a tensor one may train through.

Its value is always exact. A *route* chooses only how its derivative by the parameters is formed:
``exact`` by double backprop, ``finite-difference`` by a central difference of first-order
gradients. On smooth networks the two agree; on ReLU networks they differ in kind, because exact
derivatives ignore the kinks that a finite step sees. Neither is an approximation of the other there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdiga.checks import check_images, check_labels
from kdiga.errors import InputError, unknown
from kdiga.losses import Score, score_by_name
from kdiga.modes import frozen_statistics

LossAt = Callable[[Tensor], Tensor]


class Route(Protocol):
    """How the derivative of an input gradient by the parameters is formed."""

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context in which the forward pass has to run."""
        ...

    def __call__(self, loss: Tensor, images: Tensor, loss_at: LossAt, parameters: Sequence[Tensor]) -> Tensor:
        """Return d loss / d images, differentiable by ``parameters``.

        Args:
            loss: scalar, with a graph to ``images`` and ``parameters``.
            images: the leaf that the loss was computed from.
            loss_at: recomputes the loss at other images, leaving no trace in the model.
            parameters: what the result may be differentiated by.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """Double backprop. Needs kernels that have second derivatives, so attention runs unfused."""

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return a context with the one attention kernel that can be differentiated twice."""
        return sdpa_kernel(SDPBackend.MATH)

    def __call__(self, loss: Tensor, images: Tensor, loss_at: LossAt, parameters: Sequence[Tensor]) -> Tensor:
        """Return the gradient with its own graph."""
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        return gradient


@dataclass(frozen=True)
class FiniteDifference:
    """A central difference of parameter gradients along the cotangent: first-order passes only.

    ``v . d(input gradient)/d(parameters)`` is the derivative of the parameter gradient in direction
    ``v`` of image space, here ``[grad L(x + h v) - grad L(x - h v)] / 2h``.

    Args:
        probe: L2 length of the step, root mean square over the batch, in pixels in [0, 1]. 0.1 suits
            float32; bfloat16 needs 0.5 to 1, since rounding swamps a shorter one.

    Raises:
        InputError: for a probe of zero or less.
    """

    probe: float = 0.1

    def __post_init__(self) -> None:
        if not self.probe > 0:
            raise InputError(f"probe was {self.probe!r}; it is a length above 0, for example 0.1.")

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return a context that changes nothing."""
        return nullcontext()

    def __call__(self, loss: Tensor, images: Tensor, loss_at: LossAt, parameters: Sequence[Tensor]) -> Tensor:
        """Return the gradient; its backward runs the two probes."""
        (value,) = torch.autograd.grad(loss, images, retain_graph=True)
        device = images.device.type
        autocast = torch.autocast(
            device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )
        return _CentralDifference.apply(value, images.detach(), loss_at, self.probe, autocast, *parameters)


class _CentralDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        images: Tensor,
        loss_at: LossAt,
        probe: float,
        autocast: AbstractContextManager[Any],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(images, *parameters)
        ctx.loss_at, ctx.probe, ctx.autocast = loss_at, probe, autocast
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        images, *parameters = ctx.saved_tensors
        length = cotangent.norm().clamp_min(torch.finfo(cotangent.dtype).tiny)
        h = ctx.probe * len(images) ** 0.5 / length

        def parameter_gradient(at: Tensor) -> tuple[Tensor | None, ...]:
            with torch.enable_grad(), ctx.autocast:
                return torch.autograd.grad(ctx.loss_at(at), parameters, allow_unused=True)

        ahead = parameter_gradient(images + h * cotangent)
        behind = parameter_gradient(images - h * cotangent)
        slopes = (None if a is None or b is None else (a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True))
        return None, None, None, None, None, *slopes


ROUTES: dict[str, Callable[[], Route]] = {"exact": Exact, "finite-difference": FiniteDifference}


def route_by_name(route: str | Route) -> Route:
    """Return the route of that name, or the route itself.

    Raises:
        InputError: if there is none of that name.
    """
    if not isinstance(route, str):
        return route
    if route not in ROUTES:
        raise unknown("route", route, ROUTES)
    return ROUTES[route]()


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
        (gradient,) = torch.autograd.grad(score_by_name(gradient_of)(logits, labels).sum(), images)
    return gradient, logits.detach()
