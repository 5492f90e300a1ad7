"""Routes: ways to differentiate an input gradient by the parameters, in order to train through it.

The value of the gradient is always exact. ``exact`` differentiates it by double backprop, ``exact-pytorch`` too, with
slower kernels.
``finite-difference`` and ``one-sided`` replace the derivative by a difference of first-order parameter
gradients. On smooth networks they agree. On ReLU networks they differ in kind, because exact
derivatives ignore the kinks that a finite step crosses. Neither is an approximation of the other there,
so speed alone never decides between them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from kdiga.arguments import check_fields
from kdiga.distributed import batch_shards
from kdiga.errors import InputError, check_known
from kdiga.gradients.double_backward import fast_double_backward, pytorch_double_backward
from kdiga.gradients.input_gradient import gradient_by_images

SAFE_PROBES = {torch.float64: 0.01, torch.float32: 0.1, torch.bfloat16: 0.5}
"""Probe lengths in L2 pixels at which rounding is small compared with the difference, by the network's dtype."""


@dataclass(frozen=True)
class ParameterGradients:
    """First-order parameter gradients of the student near the images whose input gradient is taken.

    Args:
        parameters: Trainable parameters of the student.
        gradient_at: Function from images and a weight for each example to the parameter gradient of the weighted
            sum of their scores. It does not change the model.
        coupled: Whether an example's score depends on the rest of its batch, as with batch norm in train
            mode. All examples then move by one common factor.
    """

    parameters: Sequence[Tensor]
    gradient_at: Callable[[Tensor, Tensor], Sequence[Tensor | None]]
    coupled: bool


@runtime_checkable
class Route(Protocol):
    """A way to differentiate an input gradient by the parameters."""

    @property
    def double_backward(self) -> bool:
        """Whether the network is differentiated twice; it then has to run eagerly and unfused."""
        ...

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context that the forward pass needs."""
        ...

    def __call__(
        self, scores: Tensor, images: Tensor, student: ParameterGradients, value: Tensor | None = None
    ) -> Tensor:
        """Return d sum(scores) / d images, differentiable by the parameters.

        Args:
            scores: Float (batch,), with a graph to the parameters and, without ``value``, to the images.
            images: Images that the scores were computed from.
            student: Parameter gradients of the student at other images.
            value: The gradient as numbers, if it is known already; a route that differentiates twice ignores it.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """Double backprop (Drucker and LeCun, 1992), without approximation.

    On a CPU the student runs in float32 whatever the precision: the weights' second derivative of a bfloat16
    convolution of stride 1 is wrong by two thirds where the CPU has AMX (PyTorch 2.14).

    Args:
        fast: Whether the second derivatives are those of :func:`kdiga.fast_double_backward`; PyTorch's own cost up to
            four times as much, and need attention without fused kernels.
    """

    fast: bool = True
    double_backward = True

    @contextmanager
    def forward_context(self) -> Generator[None]:
        """Use operations that can be differentiated twice, and on a CPU no autocast."""
        twice = fast_double_backward() if self.fast else pytorch_double_backward()
        with twice, torch.autocast("cpu", enabled=False):
            yield

    def __call__(
        self, scores: Tensor, images: Tensor, student: ParameterGradients, value: Tensor | None = None
    ) -> Tensor:
        """Return the gradient with a graph."""
        return gradient_by_images(scores, images, create_graph=True)


Sides = Literal[1, 2]


@dataclass(frozen=True)
class FiniteDifference:
    """A difference of parameter gradients along the cotangent: first-order passes only.

    The derivative of ``sum_i v_i . g_i`` by the parameters is the derivative of the parameter gradient along
    ``v`` in image space: ``[grad L(x + h v) - grad L(x - h v)] / 2h``, or one-sided
    ``[grad L(x + h v) - grad L(x)] / h``. The second part of the latter shares the backward pass of the clean
    images, so it costs one forward and one backward pass in all. Every example moves by the same length, and its
    share of ``L`` is weighted by the length of ``v_i``. Where batch norm or other code couples the batch, all examples
    move by one common factor, and the length is the root mean square.

    Args:
        probe: L2 length of an example's step in pixels in [0, 1]. None is a safe length for the dtype of the
            network: 0.01 for float64, 0.1 for float32, 0.5 for bfloat16; rounding hides the difference of a
            shorter step.
        sides: 2 for central, 1 for one-sided.

    Raises:
        InputError: for a probe of zero or less, other sides, or a network in float16, whose range the
            gradients of confident examples leave.
    """

    probe: float | None = None
    sides: Sides = 2
    double_backward = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.probe is not None and not self.probe > 0:
            raise InputError(f"probe was {self.probe!r}; it is a length above 0, for example 0.1.")

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return a context without effect."""
        return nullcontext()

    def __call__(
        self, scores: Tensor, images: Tensor, student: ParameterGradients, value: Tensor | None = None
    ) -> Tensor:
        """Return the gradient; its backward pass runs the student at the moved images."""
        if value is None:
            value = gradient_by_images(scores, images, retain_graph=True)
        device = images.device.type
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        own = student.parameters[0].dtype if student.parameters else images.dtype
        probe = self._length(dtype if enabled else own)
        autocast = torch.autocast(device, dtype, enabled=enabled)
        # The shard is read now: the backward pass may run in another thread, which has none.
        difference = _Difference(images.detach(), student, probe, self.sides, autocast, batch_shards.current_shard())
        return _WithDifference.apply(value, scores, difference, *student.parameters)

    def _length(self, dtype: torch.dtype) -> float:
        if dtype not in SAFE_PROBES:
            raise InputError(
                f"the finite-difference route was asked to work in {dtype}, whose range input gradients leave; use "
                "bfloat16 or float32."
            )
        return self.probe or SAFE_PROBES[dtype]


@dataclass(frozen=True)
class _Difference:
    """The derivative of a weighted sum of input gradients by the parameters, from moved images."""

    images: Tensor
    student: ParameterGradients
    probe: float
    sides: Sides
    autocast: AbstractContextManager[Any]
    shard: batch_shards.BatchShard

    def __call__(self, cotangent: Tensor) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Return the derivative by the clean scores, None for the central one, and by the parameters."""
        lengths = cotangent.flatten(1).norm(dim=1)
        if self.student.coupled:
            lengths = self.shard.gather(lengths.square().mean()).mean().sqrt().expand_as(lengths)
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
            return self.student.gradient_at(images, weights)


class _WithDifference(torch.autograd.Function):
    """The identity on a value, with a finite difference as its derivative."""

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
    "exact-pytorch": lambda _: Exact(fast=False),
    "finite-difference": lambda probe: FiniteDifference(probe),
    "one-sided": lambda probe: FiniteDifference(probe, sides=1),
}


def route_by_name(route: str | Route, probe: float | None = None) -> Route:
    """Return the route of that name, or the route itself.

    Args:
        route: "exact", "exact-pytorch" (PyTorch's own second derivatives), "finite-difference" (central), "one-sided",
            or a configured route.
        probe: Step length of a named finite difference.

    Raises:
        InputError: for an unknown name.
    """
    if not isinstance(route, str):
        return route
    check_known("route", route, ROUTES)
    return ROUTES[route](probe)
