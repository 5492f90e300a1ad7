"""The layers that interval bounds cover, each as the functions that the bounds need.

Every covered layer but the ReLU is affine in eval mode, ``y = A x + b``. It becomes three functions: the layer itself;
``|A|``, which propagates radii of intervals; and ``A`` with squared entries, which propagates squared row norms.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Map = Callable[..., Tensor]
COVERED = (
    "Conv2d, Linear, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), BatchNorm, Flatten, Identity, Dropout, sums of branches, "
    "slices, zero padding, and arithmetic with constants"
)
VALUE: Any = object()  # placeholder for an argument that depends on the images
BATCH: Any = object()  # placeholder for the number of images


@dataclass(frozen=True)
class AffineLayer:
    """One layer of a network, as functions of its input values; a ReLU has ``apply`` only."""

    apply: Map  # the layer
    magnitude: Map | None = None  # ``|A|``; None for a ReLU
    squared: Map | None = None  # ``A`` with squared entries; None for a ReLU and a sum of branches
    # Upper bound of ``|b|``, one value or one per channel: the rounding of ``b`` is relative to it.
    offset: Tensor | None = None
    terms: int = 1  # upper bound of the number of products in the sum of one output
    diagonal: bool = False  # whether each output uses at most one input, and each input at most one output
    sources: tuple[int, ...] = ()  # earlier values that are the inputs: 0 is the images, i the output of layer i - 1
    name: str = ""  # name in the traced network


def affine_module(layer: nn.Module) -> AffineLayer | None:
    """Return the functions of a module in eval mode; None if it is not covered.

    The exact type decides: a subclass may compute something else.
    """
    reader = _READERS.get(type(layer))
    return None if reader is None else reader(layer)


def _convolution(layer: nn.Conv2d) -> AffineLayer | None:
    if layer.padding_mode != "zeros":
        return None
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return _weighted(convolve, layer.weight, layer.bias, layer.weight[0].numel())


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> AffineLayer | None:
    mean, var = layer.running_mean, layer.running_var
    weight, bias = cast("Tensor | None", layer.weight), cast("Tensor | None", layer.bias)
    if mean is None or var is None:
        return None
    scale = (var + layer.eps).rsqrt()
    scale = scale if weight is None else scale * weight
    moved = mean * scale
    if bias is None:
        return _scaling(scale, -moved, moved.abs())
    return _scaling(scale, bias - moved, bias.abs() + moved.abs())


def _average(layer: nn.AvgPool2d) -> AffineLayer | None:
    size, stride = layer.kernel_size, layer.stride
    if layer.divisor_override is not None or layer.ceil_mode or layer.padding not in (0, (0, 0)):
        return None
    count = size[0] * size[1] if isinstance(size, tuple) else size * size

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, size, stride)

    return AffineLayer(pool, magnitude=pool, squared=lambda r: pool(r) / count, terms=count)


_READERS: dict[type[nn.Module], Callable[[Any], AffineLayer | None]] = {
    nn.Identity: lambda _: _moving(_identity),
    nn.Dropout: lambda _: _moving(_identity),
    nn.Dropout2d: lambda _: _moving(_identity),
    nn.ReLU: lambda _: AffineLayer(torch.relu),
    nn.Flatten: lambda layer: _moving(_flat) if (layer.start_dim, layer.end_dim) == (1, -1) else None,
    nn.Linear: lambda layer: _weighted(F.linear, layer.weight, layer.bias, layer.in_features),
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: lambda layer: _spatial_mean(keepdim=True) if layer.output_size in (1, (1, 1)) else None,
}


def affine_call(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> AffineLayer | None:
    """Return the functions of a call in a forward method; None if it is not covered.

    ``name`` is that of the function or method; arguments that depend on the images are :data:`VALUE`.
    """
    rest = [value for value in values if value is not VALUE]
    if name in ("relu", "relu_"):
        return AffineLayer(torch.relu)
    if name in ("add", "iadd", "sub", "mul", "truediv"):
        return None if options or len(values) != 2 else _arithmetic(name, values, len(values) - len(rest))
    if name == "mean":
        dims = rest[0] if rest else options.get("dim")
        both = isinstance(dims, (tuple, list)) and tuple(dims) in ((2, 3), (-2, -1))
        return _spatial_mean(keepdim=bool(options.get("keepdim", False))) if both else None
    if name == "adaptive_avg_pool2d":
        return _spatial_mean(keepdim=True) if rest in ([1], [(1, 1)]) and not options else None
    return _moving_call(name, rest, options)


def _moving_call(name: str, rest: Sequence[Any], options: Mapping[str, Any]) -> AffineLayer | None:
    if name == "flatten":
        start = rest[0] if rest else options.get("start_dim", 0)
        return _moving(_flat) if start == 1 and len(rest) < 2 and "end_dim" not in options else None
    if name == "getitem" and rest and isinstance(rest[0], tuple):
        where = rest[0]
        slices = all(isinstance(part, slice) for part in where) and where[0] == slice(None)
        return _moving(lambda x: x[where]) if slices else None
    if name == "pad" and rest and _pads_zeros(rest[1:], options):
        widths = rest[0]
        return _moving(lambda x: F.pad(x, widths)) if len(widths) in (4, 6) and min(widths) >= 0 else None
    if name in ("view", "reshape"):
        return _moving(_flat) if list(rest) == [BATCH, -1] else None
    return _moving(_identity) if name == "contiguous" else None


def _pads_zeros(rest: Sequence[Any], options: Mapping[str, Any]) -> bool:
    given = {**dict(zip(("mode", "value"), rest, strict=False)), **options}
    return given.get("mode", "constant") == "constant" and given.get("value") in (None, 0, 0.0)


def _arithmetic(name: str, values: Sequence[Any], branches: int) -> AffineLayer | None:
    if branches == 2:
        if name not in ("add", "iadd", "sub"):
            return None
        return AffineLayer(operator.sub if name == "sub" else operator.add, magnitude=operator.add, terms=2)
    constant = next(value for value in values if value is not VALUE)
    first = values[0] is VALUE
    if not isinstance(constant, (int, float, Tensor)) or (name in ("sub", "truediv") and not first):
        return None
    number = torch.as_tensor(constant, dtype=torch.float64)
    if number.dim() not in (0, 4) or (number.dim() == 4 and number.shape[0] != 1):
        return None
    if name in ("add", "iadd", "sub"):
        return _scaling(None, -number if name == "sub" else number, number.abs())
    return _scaling(number if name == "mul" else 1 / number, None, None)


def _identity(x: Tensor) -> Tensor:
    return x


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _moving(function: Map) -> AffineLayer:
    """Return a layer that moves values, drops some or adds zeros, without arithmetic."""
    return AffineLayer(function, magnitude=function, squared=function, diagonal=True)


def _scaling(scale: Tensor | None, shift: Tensor | None, offset: Tensor | None) -> AffineLayer:
    """Return the layer ``x * scale + shift``, each one value, one per channel, or None."""

    def times(x: Tensor, factor: Tensor | None) -> Tensor:
        return x if factor is None else x * by_channel(factor, x)

    size = None if scale is None else scale.abs()
    square = None if scale is None else scale.square()
    return AffineLayer(
        lambda x: times(x, scale) if shift is None else times(x, scale) + by_channel(shift, x),
        magnitude=lambda r: times(r, size),
        squared=lambda r: times(r, square),
        offset=offset,
        terms=8,  # the scale itself is a rounded quotient and root
        diagonal=True,
    )


def by_channel(values: Tensor, like: Tensor) -> Tensor:
    """Return one value, or one per channel, in a shape that broadcasts with the output of a layer.

    Raises:
        RuntimeError: If the shape of the output would change: one input would be used more than once.
    """
    values = values.to(like)
    values = values.view(1, -1, *(1,) * (like.dim() - 2)) if values.dim() == 1 else values
    if torch.broadcast_shapes(values.shape, like.shape) != like.shape:
        raise RuntimeError(f"arithmetic of shape {tuple(like.shape[1:])} with a constant of {tuple(values.shape[1:])}")
    return values


def _weighted(function: Map, weight: Tensor, bias: Tensor | None, terms: int) -> AffineLayer:
    size, square = weight.abs(), weight.square()
    return AffineLayer(
        lambda x: function(x, weight, bias),
        magnitude=lambda r: function(r, size, None),
        squared=lambda r: function(r, square, None),
        offset=None if bias is None else bias.abs(),
        terms=terms,
    )


def _spatial_mean(*, keepdim: bool) -> AffineLayer:
    """Return the mean over all pixels of each channel."""

    def mean(x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=keepdim)

    def squared(r: Tensor) -> Tensor:
        return mean(r) / (r.shape[2] * r.shape[3])

    # The number of pixels is unknown here; no feature map that fits in memory has more per channel.
    return AffineLayer(mean, magnitude=mean, squared=squared, terms=2**16)
