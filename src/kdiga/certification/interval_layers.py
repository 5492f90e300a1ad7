"""The functions of each layer that interval bounds cover; see :class:`kdiga.certification.interval_network.AffineLayer`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Map = Callable[..., Tensor]
COVERED = (
    "Conv2d, Linear, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), BatchNorm, Flatten, Identity, Dropout, sums of branches, "
    "slices, zero padding, and arithmetic with constants"
)
VALUE: Any = object()  # stands for an argument that depends on the images
BATCH: Any = object()  # stands for the number of images


def of_layer(layer: nn.Module) -> dict[str, Any] | None:
    """Return a layer's functions, in eval mode; None for one that is not covered.

    By exact type: a subclass may compute something else.
    """
    kind = type(layer)
    if kind in (nn.Identity, nn.Dropout, nn.Dropout2d):
        return _moved(_same)
    if kind is nn.ReLU:
        return {"apply": torch.relu}
    reader = _READERS.get(kind)
    return None if reader is None else reader(layer)


def _flatten(layer: nn.Flatten) -> dict[str, Any] | None:
    return _moved(_flat) if (layer.start_dim, layer.end_dim) == (1, -1) else None


def _linear(layer: nn.Linear) -> dict[str, Any]:
    return _weighted(F.linear, layer.weight, cast("Tensor | None", layer.bias), layer.in_features)


def _convolution(layer: nn.Conv2d) -> dict[str, Any] | None:
    if layer.padding_mode != "zeros":
        return None
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return _weighted(convolve, layer.weight, layer.bias, layer.weight[0].numel())


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> dict[str, Any] | None:
    mean, var = layer.running_mean, layer.running_var
    weight, bias = cast("Tensor | None", layer.weight), cast("Tensor | None", layer.bias)
    if mean is None or var is None:
        return None
    scale = (var + layer.eps).rsqrt()
    scale = scale if weight is None else scale * weight
    moved = mean * scale
    shift, offset = (-moved, moved.abs()) if bias is None else (bias - moved, bias.abs() + moved.abs())
    return _scaled(scale, shift) | {"offset": offset}


def _average(layer: nn.AvgPool2d) -> dict[str, Any] | None:
    size, stride = layer.kernel_size, layer.stride
    if layer.divisor_override is not None or layer.ceil_mode or layer.padding not in (0, (0, 0)):
        return None
    count = size[0] * size[1] if isinstance(size, tuple) else size * size

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, size, stride)

    def squared(r: Tensor) -> Tensor:
        return pool(r) / count

    return {"apply": pool, "magnitude": pool, "squared": squared, "terms": count}


def _adaptive_average(layer: nn.AdaptiveAvgPool2d) -> dict[str, Any] | None:
    return _means(keep=True) if layer.output_size in (1, (1, 1)) else None


_READERS: dict[type[nn.Module], Callable[..., dict[str, Any] | None]] = {
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _adaptive_average,
}


def of_call(name: str, values: Sequence[Any], options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the functions of a call in a forward method; None for one that is not covered.

    Args:
        name: of the function or method.
        values: its arguments, :data:`VALUE` where they depend on the images.
        options: its keyword arguments.
    """
    rest = [value for value in values if value is not VALUE]
    if name in ("relu", "relu_"):
        return {"apply": torch.relu}
    if name in ("add", "iadd", "sub", "mul", "truediv"):
        return None if options or len(values) != 2 else _arithmetic(name, values, len(values) - len(rest))
    if name == "mean":
        dims = rest[0] if rest else options.get("dim")
        both = isinstance(dims, (tuple, list)) and tuple(dims) in ((2, 3), (-2, -1))
        return _means(keep=bool(options.get("keepdim", False))) if both else None
    if name == "adaptive_avg_pool2d":
        return _means(keep=True) if rest in ([1], [(1, 1)]) and not options else None
    return _of_movement(name, rest, options)


def _of_movement(name: str, rest: Sequence[Any], options: dict[str, Any]) -> dict[str, Any] | None:
    if name == "flatten":
        start = rest[0] if rest else options.get("start_dim", 0)
        return _moved(_flat) if start == 1 and len(rest) < 2 and "end_dim" not in options else None
    if name == "getitem" and rest and isinstance(rest[0], tuple):
        where = rest[0]
        whole = all(isinstance(part, slice) for part in where) and where[0] == slice(None)
        return _moved(lambda x: x[where]) if whole else None
    if name == "pad" and rest and _pads_zeros(rest[1:], options):
        widths = rest[0]
        return _moved(lambda x: F.pad(x, widths)) if len(widths) in (4, 6) and min(widths) >= 0 else None
    if name in ("view", "reshape"):
        return _moved(_flat) if list(rest) == [BATCH, -1] else None
    if name == "contiguous":
        return _moved(_same)
    return None


def _pads_zeros(rest: Sequence[Any], options: dict[str, Any]) -> bool:
    given = dict(zip(("mode", "value"), rest, strict=False)) | options
    return given.get("mode", "constant") == "constant" and given.get("value") in (None, 0, 0.0)


def _arithmetic(name: str, values: Sequence[Any], branches: int) -> dict[str, Any] | None:
    if branches == 2:
        if name not in ("add", "iadd", "sub"):
            return None
        return {"apply": operator.sub if name == "sub" else operator.add, "magnitude": operator.add, "terms": 2}
    constant = next(value for value in values if value is not VALUE)
    first = values[0] is VALUE
    if not isinstance(constant, (int, float, Tensor)) or (name in ("sub", "truediv") and not first):
        return None
    number = torch.as_tensor(constant, dtype=torch.float64)
    if number.dim() not in (0, 4) or (number.dim() == 4 and number.shape[0] != 1):
        return None
    if name in ("add", "iadd", "sub"):
        sign = -1.0 if name == "sub" else 1.0
        return _scaled(None, sign * number)
    return _scaled(number if name == "mul" else 1 / number, None)


def _same(x: Tensor) -> Tensor:
    return x


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _moved(function: Map) -> dict[str, Any]:
    """Return the functions of a layer that moves values, leaves some out or adds zeros, and computes nothing."""
    return {"apply": function, "magnitude": function, "squared": function, "diagonal": True}


def _scaled(scale: Tensor | None, shift: Tensor | None) -> dict[str, Any]:
    """Return the functions of ``x * scale + shift``, by channel where they have a value a channel."""

    def times(x: Tensor, by: Tensor | None) -> Tensor:
        return x if by is None else x * by_channel(by, x)

    size = None if scale is None else scale.abs()
    square = None if scale is None else scale.square()
    return {
        "apply": lambda x: times(x, scale) if shift is None else times(x, scale) + by_channel(shift, x),
        "magnitude": lambda r: times(r, size),
        "squared": lambda r: times(r, square),
        "offset": None if shift is None else shift.abs(),
        "terms": 8,  # the scale itself is a rounded quotient and root
        "diagonal": True,
    }


def by_channel(values: Tensor, like: Tensor) -> Tensor:
    """Return one value, or one a channel, in a shape that goes with a layer's output."""
    values = values.to(like)
    return values.view(1, -1, *(1,) * (like.dim() - 2)) if values.dim() == 1 else values


def _weighted(function: Map, weight: Tensor, bias: Tensor | None, terms: int) -> dict[str, Any]:
    size, square = weight.abs(), weight.square()
    return {
        "apply": lambda x: function(x, weight, bias),
        "magnitude": lambda r: function(r, size, None),
        "squared": lambda r: function(r, square, None),
        "offset": None if bias is None else bias.abs(),
        "terms": terms,
    }


def _means(*, keep: bool) -> dict[str, Any]:
    """Return the functions of a mean over all pixels of each channel."""

    def mean(x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=keep)

    def squared(r: Tensor) -> Tensor:
        return mean(r) / (r.shape[2] * r.shape[3])

    # The number of pixels is not known here; no map that fits in memory beside its channels has more.
    return {"apply": mean, "magnitude": mean, "squared": squared, "terms": 2**16}
