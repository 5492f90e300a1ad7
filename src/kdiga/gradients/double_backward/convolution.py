"""Convolution whose second derivative is made of the primitives of the first.

The input gradient ``gx = conv_T(gy, W)`` is linear in ``gy`` and in ``W``. So for ``v = dL/d(gx)``:

- ``dL/d(gy) = conv(v, W)``: a forward convolution,
- ``dL/dW = conv_weight(v, gy)``: a weight gradient.

PyTorch forms both from transposed convolutions instead (pytorch issue #3076).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdiga.gradients.double_backward.autograd_tools import (
    autocast_dtype,
    last_derivative,
    to_save,
    wanted,
    without_autocast,
)

aten = torch.ops.aten

Options = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, whether transposed, output padding, groups: the arguments of ``aten.convolution``."""


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """Return ``aten.convolution``, cast as autocast casts it."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _Convolution.apply(x, weight, bias, options)  # pyright: ignore[reportReturnType]


def options_of(
    kernel: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Options | None:
    """Return the options of ``torch.conv1d`` to ``conv3d``; None for a padding that is not the same on both sides."""
    spatial = len(kernel)
    strides, dilations = _each(stride, spatial), _each(dilation, spatial)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        if any(total % 2 for total in totals) or any(s != 1 for s in strides):
            return None
        padding = [total // 2 for total in totals]
    paddings = [0] * spatial if padding == "valid" else _each(padding, spatial)  # pyright: ignore[reportArgumentType]
    return strides, paddings, dilations, False, [0] * spatial, groups


def transposed_options_of(
    kernel: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Options:
    """Return the options of ``torch.conv_transpose1d`` to ``conv_transpose3d``."""
    sizes = [_each(value, len(kernel)) for value in (stride, padding, dilation, output_padding)]
    return sizes[0], sizes[1], sizes[2], True, sizes[3], groups


def _each(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value) * (count if len(value) == 1 else 1)


def _derivatives(
    gy: Tensor, x: Tensor, weight: Tensor, options: Options, bias: bool, mask: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients by input, weight and bias that the mask selects."""
    sizes = [gy.shape[1]] if bias else None
    return aten.convolution_backward(gy, x, weight, sizes, *options, mask)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        ctx.input, inputs = to_save(x)
        ctx.save_for_backward(weight, *inputs)
        ctx.options, ctx.bias = options, bias is not None
        with without_autocast(x.device):
            return aten.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, *inputs = ctx.saved_tensors
        by_input, by_weight, by_bias = wanted(ctx, 0), wanted(ctx, 1), wanted(ctx, 2)
        gx = None
        if by_input and torch.is_grad_enabled():
            gx, by_input = _InputGradient.apply(gy, weight, inputs[0], ctx.options), False
        if not (by_input or by_weight or by_bias):
            return gx, None, None, None
        x = ctx.input(*inputs) if by_weight else inputs[0]  # without a weight gradient only the shape counts
        found = _derivatives(gy, x, weight, ctx.options, ctx.bias, (by_input, by_weight, by_bias))
        return found[0] if by_input else gx, found[1], found[2], None


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, weight: Tensor, like: Tensor, options: Options) -> Tensor:
        ctx.save_for_backward(gy, weight)
        ctx.options = options
        gx = _derivatives(gy, like, weight, options, False, (True, False, False))[0]
        assert gx is not None
        return gx

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, weight = ctx.saved_tensors
        ggy = gweight = None
        with without_autocast(v.device):
            if wanted(ctx, 0):
                ggy = aten.convolution(v, weight, None, *ctx.options)
            if wanted(ctx, 1):
                gweight = _derivatives(gy, v, weight, ctx.options, False, (False, True, False))[1]
        return ggy, gweight, None, None
