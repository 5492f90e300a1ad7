"""Activations whose first derivative is PyTorch's fused kernel and whose second derivative is a closed form.

For ``y = f(x)``, ``gx = gy f'(x)`` and the cotangent ``v`` of ``gx``: ``dL/d(gy) = v f'(x)``, which is the first
backward pass applied to ``v``, and ``dL/dx = v gy f''(x)``. PyTorch composes the latter from ten or more
operations, and has none for hardswish and hardsigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdiga.gradients.double_backward.autograd_tools import last_derivative, mark_source, wanted

aten = torch.ops.aten


class Activation(NamedTuple):
    """A smooth activation and its derivatives.

    Args:
        forward: ``f``, from a tensor.
        backward: ``gy f'(x)``, from ``gy`` and ``x``.
        curvature: ``v gy f''(x)``, from ``v gy``, which it may overwrite, and ``x``; None where ``f''`` is zero.
        by_output: Whether ``backward`` takes ``y`` in place of ``x``, which then need not be saved.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor] | None
    by_output: bool = False


def _silu_curvature(product: Tensor, x: Tensor) -> Tensor:
    # f'' = s (1 - s) (2 + x (1 - 2 s)), s the sigmoid
    s = torch.sigmoid(x)
    product.mul_(torch.addcmul(x, x, s, value=-2).add_(2))
    return aten.sigmoid_backward(product, s)


def _gelu_curvature(product: Tensor, x: Tensor) -> Tensor:
    # f'' = phi(x) (2 - x^2), phi the normal density; 2 phi(x) = exp(c - x^2 / 2)
    square = x * x
    product.mul_(torch.rsub(square, math.log(2 / math.sqrt(2 * math.pi)), alpha=0.5).exp_())
    return torch.addcmul(product, product, square, value=-0.5)


def _gelu_tanh_curvature(product: Tensor, x: Tensor) -> Tensor:
    # f = x (1 + tanh u) / 2, u = k (x + c x^3): f'' = (1 - tanh^2 u) (u' + x u'' / 2 - x u'^2 tanh u)
    k, c = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    tanh = torch.tanh(x * (1 + c * square) * k)
    slope = k * (1 + 3 * c * square)
    inner = slope + 3 * k * c * square - x * slope * slope * tanh
    return product.mul_(1 - tanh * tanh).mul_(inner)


def _hardswish_curvature(product: Tensor, x: Tensor) -> Tensor:
    return product.mul_(1 / 3).masked_fill_(x.abs() >= 3, 0)


SILU = Activation(aten.silu, aten.silu_backward, _silu_curvature)
GELU = Activation(aten.gelu, aten.gelu_backward, _gelu_curvature)
GELU_TANH = Activation(
    lambda x: aten.gelu(x, approximate="tanh"),
    lambda gy, x: aten.gelu_backward(gy, x, approximate="tanh"),
    _gelu_tanh_curvature,
)
HARDSWISH = Activation(aten.hardswish, aten.hardswish_backward, _hardswish_curvature)
HARDSIGMOID = Activation(aten.hardsigmoid, aten.hardsigmoid_backward, None)


def clamp_activation(low: float, high: float) -> Activation:
    """Return hardtanh between two values; ReLU6 is the one between 0 and 6."""
    return Activation(
        lambda x: aten.hardtanh(x, low, high), lambda gy, y: aten.hardtanh_backward(gy, y, low, high), None, True
    )


def activate(activation: Activation, x: Tensor, inplace: bool = False) -> Tensor:
    """Return the activation, written into ``x`` if ``inplace``; the derivatives may then need a copy of ``x``."""
    if inplace:
        return _Activation.apply(x if activation.by_output else x.clone(), x, activation)  # pyright: ignore[reportReturnType]
    y: Tensor = _Activation.apply(x, None, activation)  # pyright: ignore[reportAssignmentType]
    return y if activation.by_output else mark_source(y, activation.forward, x)


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, into: Tensor | None, activation: Activation) -> Tensor:
        y = activation.forward(x)
        if into is not None:
            ctx.mark_dirty(into)
            y = into.copy_(y)
        ctx.save_for_backward(y if activation.by_output else x)
        ctx.activation = activation
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (saved,) = ctx.saved_tensors
        activation: Activation = ctx.activation
        gx: Tensor = _ActivationBackward.apply(gy, saved, activation)  # pyright: ignore[reportAssignmentType]
        if torch.is_grad_enabled() and not activation.by_output:
            mark_source(gx, activation.backward, gy, saved)
        return gx, None, None


class _ActivationBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, activation: Activation) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gy, x)
        return activation.backward(gy, x)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, x = ctx.saved_tensors
        activation: Activation = ctx.activation
        ggy = activation.backward(v, x) if wanted(ctx, 0) else None
        gx = activation.curvature(v * gy, x) if activation.curvature is not None and wanted(ctx, 1) else None
        return ggy, gx, None
