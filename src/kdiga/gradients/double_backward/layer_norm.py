"""Layer and group normalisation with a closed-form second derivative.

Per row, that is the values that share a mean: ``xh = (x - mean) * inv``, ``h = gy * w`` and
``gx = inv (h - mean(h) - xh mean(h xh))``. For the cotangent ``v`` of ``gx`` let
``r = inv (v - mean(v) - xh mean(v xh))``, the same backward pass without weight. Then

- ``dL/d(gy) = w r``,
- ``dL/dw = sum(gy r)`` over the rows,
- ``dL/dx = -inv (d gx + b r) - (mean(gx r) + eps inv^4 b d) xh``, with ``b = mean(h xh)``, ``d = mean(v xh)``.

For the cotangents ``s`` and ``t`` of the gradients of weight and bias, ``dL/d(gy)`` gains ``s xh + t`` and ``dL/dx``
the backward pass applied to ``s gy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdiga.gradients.double_backward.autograd_tools import in_layout_of, last_derivative, wanted

aten = torch.ops.aten


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return ``torch.layer_norm``."""
    if weight is None:
        weight = x.new_ones(tuple(shape))
    return _LayerNorm.apply(x, weight, bias, eps)  # pyright: ignore[reportReturnType]


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return ``torch.group_norm``: layer norm over each group, then weight and bias of each channel."""
    shape, channel = x.shape, (1, x.shape[1], *[1] * (x.dim() - 2))
    rows = x.reshape(len(x), groups, -1)
    y = in_layout_of(x, layer_norm(rows, rows.shape[2:], None, None, eps).view(shape))
    if weight is not None:
        y = y * weight.view(channel).to(y.dtype)
    return y if bias is None else y + bias.view(channel).to(y.dtype)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        y, mean, inv = aten.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, inv)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, inv = ctx.saved_tensors
        by_weight, by_bias = wanted(ctx, 1), wanted(ctx, 2)
        gx, gweight, gbias = _LayerNormBackward.apply(  # pyright: ignore[reportGeneralTypeIssues]
            gy, weight, x, mean, inv, (ctx.eps, by_weight or by_bias)
        )
        return gx, gweight if by_weight else None, gbias if by_bias else None, None


class _LayerNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, weight: Tensor, x: Tensor, mean: Tensor, inv: Tensor, settings: tuple[float, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.eps, parameters = settings
        gx, gweight, gbias = _backward(gy, x, mean, inv, weight, weight, parameters)
        ctx.save_for_backward(gy, weight, x, mean, inv)
        ctx.set_materialize_grads(False)
        return gx, gweight, gbias

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: Tensor | None, s: Tensor | None, t: Tensor | None) -> tuple[Any, ...]:
        gy, weight, x, mean, inv = ctx.saved_tensors
        dims = tuple(range(-weight.dim(), 0))
        xh = torch.sub(x, mean).mul_(inv).to(x.dtype)
        ggy = gx = gw = None
        if v is not None:
            r = _backward(v, x, mean, inv, weight, None)[0]
            first = _backward(gy, x, mean, inv, weight, weight)[0]
            ggy, gw = r * weight, (gy * r).flatten(0, -weight.dim() - 1).sum(0)
            d = (v * xh).mean(dims, keepdim=True)
            b = (gy * xh).mul_(weight).mean(dims, keepdim=True)
            on_xh = (first * r).mean(dims, keepdim=True).add_(b * d * inv**4, alpha=ctx.eps)
            gx = torch.mul(first, -inv * d).addcmul_(r, -inv * b).addcmul_(xh, -on_xh)
        if s is not None:
            on_x = _backward(gy * s, x, mean, inv, weight, None)[0]
            gx = on_x if gx is None else gx + on_x
            ggy = xh * s if ggy is None else ggy + xh * s
        if t is not None:
            ggy = t.expand_as(x) if ggy is None else ggy + t
        return (
            None if ggy is None else ggy.to(gy.dtype),
            None if gw is None else gw.to(weight.dtype),
            None if gx is None else gx.to(x.dtype),
            *(None, None, None),
        )


def _backward(
    gy: Tensor, x: Tensor, mean: Tensor, inv: Tensor, like: Tensor, weight: Tensor | None, parameters: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return PyTorch's backward pass over the last dimensions, as many as the weight ``like`` has."""
    mask = (True, parameters, parameters)
    bias = None if weight is None else torch.empty_like(weight)  # only its presence counts
    return aten.native_layer_norm_backward(gy, x, like.shape, mean, inv, weight, bias, mask)
