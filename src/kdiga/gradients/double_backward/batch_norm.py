"""Batch normalisation whose second derivative is the same backward pass, applied once more.

Per channel over ``n`` values, with ``xh = (x - mean) * inv``, weight ``w`` and bias, in train mode:

- ``gx = w inv (gy - a - xh b)``, with ``a = mean(gy)``, ``b = mean(gy xh)``.

For the cotangents ``v`` of ``gx``, ``s`` of the weight's gradient ``n b`` and ``t`` of the bias's ``n a``:

- ``dL/d(gy) = w inv (v - c - xh d) + s xh + t``, with ``c = mean(v)``, ``d = mean(v xh)``,
- ``dL/dw = n inv (e - a c - b d)``, with ``e = mean(v gy)``,
- ``dL/dx = -w inv^2 (d gy + b v + (e - a c - 3 b d) xh - (a d + b c)) + s inv (gy - a - xh b)``.

In eval mode mean and inv are constants: ``gx = w inv gy``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdiga.gradients.double_backward.autograd_tools import in_layout_of, last_derivative, to_save, wanted

aten = torch.ops.aten


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return ``torch.batch_norm``, which moves the running statistics in train mode."""
    if weight is None:
        weight = torch.ones(x.shape[1], dtype=x.dtype if running_mean is None else running_mean.dtype, device=x.device)
    settings = (training, momentum, eps)
    return _BatchNorm.apply(x, weight, bias, running_mean, running_var, settings)  # pyright: ignore[reportReturnType]


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _sums(x: Tensor, gy: Tensor, mean: Tensor, inv: Tensor, mask: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
    """Return ``w inv (gy - a - xh b)`` for ``w = 1``, ``n b`` and ``n a``, as the mask selects."""
    ones = torch.ones_like(inv)  # without a weight CUDA's kernels return no sums
    return aten.native_batch_norm_backward(gy, x, ones, None, None, mean, inv, True, 0.0, mask)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        settings: tuple[bool, float, float],
    ) -> Tensor:
        training, momentum, eps = settings
        y, mean, inv = aten.native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps)
        if not training:
            assert running_mean is not None
            assert running_var is not None
            # In the dtype of the kernel's statistics: on CUDA float32 for a network in half precision.
            inv = (running_var.to(mean.dtype) + eps).rsqrt()
            mean = running_mean.to(mean.dtype, copy=True)
        ctx.save_for_backward(x, weight, mean, inv)
        ctx.training = training
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, inv = ctx.saved_tensors
        by_weight, by_bias = wanted(ctx, 1), wanted(ctx, 2)
        function = _BatchNormBackward if ctx.training else _ScaleBackward
        gx, gweight, gbias = function.apply(gy, weight, x, mean, inv)  # pyright: ignore[reportGeneralTypeIssues]
        return gx, gweight if by_weight else None, gbias if by_bias else None, None, None, None


class _BatchNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, weight: Tensor, x: Tensor, mean: Tensor, inv: Tensor) -> tuple[Tensor, ...]:
        ctx.gy, inputs = to_save(gy)
        gx, gweight, gbias = aten.native_batch_norm_backward(
            in_layout_of(x, gy), x, weight, None, None, mean, inv, True, 0.0, (True, True, True)
        )
        ctx.save_for_backward(weight, x, mean, inv, gweight, gbias, *inputs)
        ctx.set_materialize_grads(False)
        return gx, gweight, gbias

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: Tensor | None, s: Tensor | None, t: Tensor | None) -> tuple[Any, ...]:
        weight, x, mean, inv, gweight, gbias, *inputs = ctx.saved_tensors
        gy = in_layout_of(x, ctx.gy(*inputs))
        n = x.numel() / x.shape[1]
        a, b = gbias / n, gweight / n
        ggy = gx = gw = None
        on_gy = on_x = constant = torch.zeros_like(mean)
        if v is not None:
            v = in_layout_of(x, v)
            mask = (True, True, True)
            ggy, nd, nc = aten.native_batch_norm_backward(v, x, weight, None, None, mean, inv, True, 0.0, mask)
            c, d = nc / n, nd / n
            # The kernel's weight gradient, at mean 0 and deviation 1, is the sum of products, with no temporary tensor.
            zero, one = torch.zeros_like(mean), torch.ones_like(inv)
            e = _sums(gy, v, zero, one, (False, True, False))[1] / n
            gw = (e - a * c - b * d) * n * inv
            scale = weight * inv * inv
            on_gy, on_v = -scale * d, -scale * b
            on_x = -scale * (e - a * c - 3 * b * d)
            constant = scale * (a * d + b * c)
        if s is not None:
            on_gy, on_x, constant = on_gy + s * inv, on_x - s * inv * b, constant - s * inv * a
        on_x = on_x * inv
        constant = constant - on_x * mean
        if wanted(ctx, 2):
            gx = torch.addcmul(_per_channel(constant, x), gy, _per_channel(on_gy, x))
            if v is not None:
                gx.addcmul_(v, _per_channel(on_v, x))  # pyright: ignore[reportPossiblyUnboundVariable]
            gx = gx.addcmul_(x, _per_channel(on_x, x)).to(x.dtype)
        if s is not None:
            xh = (x - _per_channel(mean, x)) * _per_channel(inv, x)
            on_xh = xh.mul_(_per_channel(s, x)).to(x.dtype)
            ggy = on_xh if ggy is None else ggy + on_xh
        if t is not None:
            ggy = _per_channel(t, x).expand_as(x) if ggy is None else ggy + _per_channel(t, x)
        return None if ggy is None else ggy.to(gy.dtype), gw, gx, None, None


class _ScaleBackward(torch.autograd.Function):
    """The backward pass of batch norm in eval mode."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, weight: Tensor, x: Tensor, mean: Tensor, inv: Tensor) -> tuple[Tensor, ...]:
        gy = in_layout_of(x, gy)
        gweight, gbias = _sums(x, gy, mean, inv, (False, True, True))[1:]
        ctx.save_for_backward(gy, weight, x, mean, inv)
        ctx.set_materialize_grads(False)
        return (gy * _per_channel(weight * inv, x)).to(x.dtype), gweight, gbias

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: Tensor | None, s: Tensor | None, t: Tensor | None) -> tuple[Any, ...]:
        gy, weight, x, mean, inv = ctx.saved_tensors
        ggy = gx = gw = None
        if v is not None:
            v = in_layout_of(x, v)
            ggy = v * _per_channel(weight * inv, x)
            if wanted(ctx, 1):
                gw = _sums(gy, v, torch.zeros_like(mean), torch.ones_like(inv), (False, True, False))[1] * inv
        if s is not None:
            gx = (gy * _per_channel(s * inv, x)).to(x.dtype)
            on_x = (x - _per_channel(mean, x)) * _per_channel(inv * s, x)
            ggy = on_x if ggy is None else ggy + on_x
        if t is not None:
            ggy = _per_channel(t, x).expand_as(x) if ggy is None else ggy + _per_channel(t, x)
        return None if ggy is None else ggy.to(gy.dtype), gw, gx, None, None
