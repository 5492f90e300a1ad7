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

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdiga.gradients.double_backward.autograd_tools import in_autocast_float32, in_layout_of, last_derivative, wanted

aten = torch.ops.aten


class Rows(Protocol):
    """Which values share a mean, and PyTorch's kernels for them."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result, the means and the inverse deviations."""
        ...

    def backward(
        self, gy: Tensor, x: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, parameters: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients by input and, if asked for, by weight and bias."""
        ...

    def statistic(self, values: Tensor, like: Tensor) -> Tensor:
        """Return one value a row in a shape that broadcasts with the input."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of each row in a shape that broadcasts with the input."""
        ...

    def weight(self, weight: Tensor, like: Tensor) -> Tensor:
        """Return the weight in a shape that broadcasts with the input."""
        ...

    def sum_to_weight(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return the sum over all but the weight's dimensions."""
        ...


class LastDimensions(NamedTuple):
    """Layer norm: a row is the last dimensions of the input."""

    shape: tuple[int, ...]

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result, the means and the inverse deviations."""
        return aten.native_layer_norm(x, self.shape, weight, bias, eps)

    def backward(
        self, gy: Tensor, x: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, parameters: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients by input and, if asked for, by weight and bias."""
        bias, mask = torch.empty_like(weight), (True, parameters, parameters)  # only the bias's presence counts
        return aten.native_layer_norm_backward(gy, x, self.shape, mean, inv, weight, bias, mask)

    def statistic(self, values: Tensor, like: Tensor) -> Tensor:
        """Return the values, whose shape PyTorch has made so."""
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the last dimensions."""
        return values.mean(tuple(range(-len(self.shape), 0)), keepdim=True)

    def weight(self, weight: Tensor, like: Tensor) -> Tensor:
        """Return the weight."""
        return weight

    def sum_to_weight(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return the sum over the first dimensions."""
        return values.flatten(0, -len(self.shape) - 1).sum(0)


class ChannelGroups(NamedTuple):
    """Group norm: a row is a group of an example's channels."""

    groups: int

    def _sizes(self, x: Tensor) -> tuple[int, int, int, int]:
        return len(x), x.shape[1], math.prod(x.shape[2:]), self.groups

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result, the means and the inverse deviations."""
        return aten.native_group_norm(x, weight, bias, *self._sizes(x), eps)

    def backward(
        self, gy: Tensor, x: Tensor, mean: Tensor, inv: Tensor, weight: Tensor, parameters: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients by input and, if asked for, by weight and bias."""
        mask = (True, parameters, parameters)
        return aten.native_group_norm_backward(in_layout_of(x, gy), x, mean, inv, weight, *self._sizes(x), mask)

    def statistic(self, values: Tensor, like: Tensor) -> Tensor:
        """Return the values of (batch, group) repeated for each channel."""
        channels = values.repeat_interleave(like.shape[1] // self.groups, 1)
        return channels.view(*channels.shape, *[1] * (like.dim() - 2))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over each group."""
        channels = values.sum(tuple(range(2, values.dim()))) if values.dim() > 2 else values
        groups = channels.view(len(values), self.groups, -1).sum(2)
        return self.statistic(groups * (len(values) * self.groups / values.numel()), values)

    def weight(self, weight: Tensor, like: Tensor) -> Tensor:
        """Return the weight of each channel."""
        return weight.view(1, -1, *[1] * (like.dim() - 2))

    def sum_to_weight(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return the sum of each channel."""
        return values.sum((0, *range(2, values.dim())))


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return ``torch.layer_norm``."""
    x, weight, bias = in_autocast_float32(x, weight, bias)
    rows = LastDimensions(tuple(shape))
    return _RowNorm.apply(x, x.new_ones(rows.shape) if weight is None else weight, bias, rows, eps)  # pyright: ignore[reportReturnType]


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return ``torch.group_norm``."""
    x, weight, bias = in_autocast_float32(x, weight, bias)
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    x = in_layout_of(x, x) if x.device.type == "cpu" else x.contiguous()  # the only layout of other kernels
    return _RowNorm.apply(x, weight, bias, ChannelGroups(groups), eps)  # pyright: ignore[reportReturnType]


class _RowNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Rows, eps: float) -> Tensor:
        y, mean, inv = rows.forward(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, inv)
        ctx.rows, ctx.eps = rows, eps
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, inv = ctx.saved_tensors
        by_weight, by_bias = wanted(ctx, 1), wanted(ctx, 2)
        settings = (ctx.rows, ctx.eps, by_weight or by_bias)
        gx, gweight, gbias = _RowNormBackward.apply(gy, weight, x, mean, inv, settings)  # pyright: ignore[reportGeneralTypeIssues]
        return gx, gweight if by_weight else None, gbias if by_bias else None, None, None


class _RowNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, weight: Tensor, x: Tensor, mean: Tensor, inv: Tensor, settings: tuple[Rows, float, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.rows, ctx.eps, parameters = settings
        ctx.save_for_backward(gy, weight, x, mean, inv)
        ctx.set_materialize_grads(False)
        return ctx.rows.backward(gy, x, mean, inv, weight, parameters)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: Tensor | None, s: Tensor | None, t: Tensor | None) -> tuple[Any, ...]:
        gy, weight, x, mean, inv = ctx.saved_tensors
        rows: Rows = ctx.rows
        w, wide = rows.weight(weight, x), rows.statistic(inv, x)
        ones = torch.ones_like(weight)  # not None: PyTorch takes a weight in float32 for an input in bfloat16, not none
        xh = torch.sub(x, rows.statistic(mean, x)).mul_(wide).to(x.dtype)
        ggy = gx = gw = None
        if v is not None:
            r = rows.backward(v, x, mean, inv, ones)[0]
            first = rows.backward(gy, x, mean, inv, weight)[0]
            ggy, gw = r * w, rows.sum_to_weight(gy * r, weight)
            d, b = rows.mean(v * xh), rows.mean((gy * xh).mul_(w))
            on_xh = rows.mean(first * r).add_(b * d * wide**4, alpha=ctx.eps)
            gx = torch.mul(first, -wide * d).addcmul_(r, -wide * b).addcmul_(xh, -on_xh)
        if s is not None:
            s = rows.weight(s, x)
            on_x = rows.backward((gy * s).to(gy.dtype), x, mean, inv, ones)[0]
            gx = on_x if gx is None else gx + on_x
            ggy = xh * s if ggy is None else ggy + xh * s
        if t is not None:
            t = rows.weight(t, x)
            ggy = t.expand_as(x) if ggy is None else ggy + t
        return (
            None if ggy is None else ggy.to(gy.dtype),
            None if gw is None else gw.to(weight.dtype),
            None if gx is None else gx.to(x.dtype),
            *(None, None, None),
        )
