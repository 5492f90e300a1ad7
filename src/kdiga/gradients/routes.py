"""Routes: how an input gradient that is trained through gets its derivative by the parameters.

The value of the gradient is always exact. ``exact`` differentiates it by double backprop;
``finite-difference`` and ``one-sided`` put a difference of first-order parameter gradients in the
derivative's place. On smooth networks they agree; on ReLU networks they differ in kind, because exact
derivatives ignore the kinks that a finite step sees. Neither is an approximation of the other there,
so a route is a choice, and speed alone never makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdiga.distributed import batch_shards
from kdiga.errors import InputError, unknown
from kdiga.gradients.differentiation import by_images

ParameterGradient = Callable[[Tensor, Tensor], Sequence[Tensor | None]]
"""Maps images and a weight for each example to the parameter gradient of the weighted sum of their scores."""

SAFE_PROBES = {torch.float64: 0.01, torch.float32: 0.1, torch.bfloat16: 0.5}
"""Probe lengths in L2 pixels at which rounding is small beside the difference, by the dtype networks compute in."""


@dataclass(frozen=True)
class ParameterGradients:
    """The student around the images whose input gradient is taken.

    Args:
        parameters: what the gradient may be differentiated by.
        gradient_at: the parameter gradient of the scores at other images; leaves no trace in the model.
        coupled: whether an example's score depends on the batch it is in, as with batch norm in train
            mode. Then all examples have to be moved by one common factor.
    """

    parameters: Sequence[Tensor]
    gradient_at: ParameterGradient
    coupled: bool


class Route(Protocol):
    """How the derivative of an input gradient by the parameters is formed."""

    @property
    def double_backward(self) -> bool:
        """Whether the network is differentiated twice, so that it has to run eagerly and unfused."""
        ...

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context in which the forward pass has to run."""
        ...

    def __call__(
        self, scores: Tensor, images: Tensor, around: ParameterGradients, value: Tensor | None = None
    ) -> Tensor:
        """Return d sum(scores) / d images, differentiable by the parameters.

        Args:
            scores: (batch,), with a graph to the parameters and, unless ``value`` is given, to the images.
            images: that the scores were computed from.
            around: the student elsewhere.
            value: the gradient as numbers, where it was computed elsewhere; of no use to a route that
                differentiates twice.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """Double backprop. Needs kernels that have second derivatives, so attention runs unfused.

    On a CPU the student runs in float32 whatever the precision: the weights' second derivative of a bfloat16
    convolution of stride 1 is wrong by two thirds where the CPU has AMX (PyTorch 2.14).
    """

    double_backward = True

    @contextmanager
    def forward_context(self) -> Generator[None]:
        """Run with the one attention kernel that can be differentiated twice, and on a CPU without autocast."""
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", enabled=False):
            yield

    def __call__(
        self, scores: Tensor, images: Tensor, around: ParameterGradients, value: Tensor | None = None
    ) -> Tensor:
        """Return the gradient with its own graph."""
        return by_images(scores, images, twice=True)


Sides = Literal[1, 2]


@dataclass(frozen=True)
class FiniteDifference:
    """A difference of parameter gradients along the cotangent: first-order passes only.

    The derivative of ``sum_i v_i . g_i`` by the parameters is that of the parameter gradient along
    ``v`` in image space: ``[grad L(x + h v) - grad L(x - h v)] / 2h``, or one-sided
    ``[grad L(x + h v) - grad L(x)] / h``, whose second part shares the backward pass of the clean images, so
    that it costs one forward and one backward pass in all. Every example is moved by the same length, its
    share of ``L`` weighted by that of ``v_i``; where batch norm couples the batch, by one common factor,
    the length being the root mean square.

    Args:
        probe: L2 length of an example's step in pixels in [0, 1]; None is safe for the dtype that the
            network computes in: 0.01 for float64, 0.1 for float32, 0.5 for bfloat16, since
            rounding swamps a shorter one there.
        sides: 2 central, 1 one-sided.

    Raises:
        InputError: for a probe of zero or less, other sides, or when used in float16, whose range the
            gradients of confident examples leave.
    """

    probe: float | None = None
    sides: Sides = 2
    double_backward = False

    def __post_init__(self) -> None:
        if self.probe is not None and not self.probe > 0:
            raise InputError(f"probe was {self.probe!r}; it is a length above 0, for example 0.1.")
        if self.sides not in get_args(Sides):
            raise InputError(f"sides was {self.sides!r}; accepted: 1 (one-sided) and 2 (central).")

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return a context that changes nothing."""
        return nullcontext()

    def __call__(
        self, scores: Tensor, images: Tensor, around: ParameterGradients, value: Tensor | None = None
    ) -> Tensor:
        """Return the gradient; its backward runs the probes."""
        if value is None:
            value = by_images(scores, images, keep=True)
        device = images.device.type
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        probe = self._length(dtype if enabled else images.dtype)
        autocast = torch.autocast(device, dtype, enabled=enabled)
        # Asked for now: the backward pass may run in another thread, which knows of no piece.
        moved = _Difference(images.detach(), around, probe, self.sides, autocast, batch_shards.current_shard())
        return _Attached.apply(value, scores, moved, *around.parameters)

    def _length(self, dtype: torch.dtype) -> float:
        if dtype not in SAFE_PROBES:
            raise InputError(
                f"the finite-difference route was asked to work in {dtype}, whose range input gradients leave; use "
                "bfloat16 or float32."
            )
        return self.probe or SAFE_PROBES[dtype]


@dataclass(frozen=True)
class _Difference:
    """The derivative of a weighted sum of input gradients by the parameters, by moving the images."""

    images: Tensor
    around: ParameterGradients
    probe: float
    sides: Sides
    autocast: AbstractContextManager[Any]
    shared: batch_shards.BatchShard

    def __call__(self, cotangent: Tensor) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Return the derivative by the clean scores, if it is one-sided, and by the parameters."""
        lengths = cotangent.flatten(1).norm(dim=1)
        if self.around.coupled:
            lengths = self.shared.gather(lengths.square().mean()).mean().sqrt().expand_as(lengths)
        tiny = torch.finfo(lengths.dtype).tiny
        step = self.probe * cotangent / lengths.clamp_min(tiny)[:, None, None, None]
        weights = lengths / (self.sides * self.probe)
        ahead = self._gradient(self.images + step, weights)
        if self.sides == 1:
            return -weights, ahead
        behind = self._gradient(self.images - step, -weights)
        return None, [None if a is None or b is None else a + b for a, b in zip(ahead, behind, strict=True)]

    def _gradient(self, images: Tensor, weights: Tensor) -> Sequence[Tensor | None]:
        with torch.enable_grad(), self.autocast:
            return self.around.gradient_at(images, weights)


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scores: Tensor, difference: _Difference, *parameters: Tensor) -> Tensor:
        ctx.difference = difference
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_scores, by_parameters = ctx.difference(cotangent)
        return None, by_scores, None, *by_parameters


ROUTES: dict[str, Callable[[float | None], Route]] = {
    "exact": lambda _: Exact(),
    "finite-difference": lambda probe: FiniteDifference(probe),
    "one-sided": lambda probe: FiniteDifference(probe, sides=1),
}


def route_by_name(route: str | Route, probe: float | None = None) -> Route:
    """Return the route of that name, or the route itself.

    Args:
        route: "exact", "finite-difference" (central), "one-sided", or a configured one.
        probe: length of a named finite difference's step.

    Raises:
        InputError: if there is none of that name.
    """
    if not isinstance(route, str):
        return route
    if route not in ROUTES:
        raise unknown("route", route, ROUTES)
    return ROUTES[route](probe)
