"""A network taken apart into affine steps and ReLUs, so that bounds can be carried through it.

The network is traced by ``torch.fx``. Every layer but the ReLU is affine in eval mode, ``y = A x + b``, and each is kept
as three functions: itself; ``|A|``, which carries radii of intervals; and ``A`` with squared entries, which carries squared
row norms. A layer that is neither is refused by name: a bound that guesses would prove nothing.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from kdiga.errors import InputError

Map = Callable[..., Tensor]
ACCEPTED = (
    "Conv2d, Linear, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), BatchNorm, Flatten, Identity, Dropout, sums of branches, "
    "slices, zero padding, and arithmetic with constants"
)


@dataclass(frozen=True)
class Step:
    """One layer, as functions of its inputs' values.

    Args:
        name: in the network.
        sources: which earlier values it takes: 0 the images, i the output of step i - 1.
        apply: the layer.
        magnitude: ``|A|``; None for a ReLU.
        squared: ``A`` with squared entries, of one input; None where steps of this kind never need it.
        offset: ``|b|`` or more, one value or one a channel: what the rounding of ``b`` is measured by.
        terms: products added up for one output, at most.
        diagonal: whether every output takes one input at most, and every input goes to one output at most.
    """

    name: str
    sources: tuple[int, ...]
    apply: Map
    magnitude: Map | None = None
    squared: Map | None = None
    offset: Tensor | None = None
    terms: int = 1
    diagonal: bool = False


@dataclass(frozen=True)
class Network:
    """Steps up to the last linear layer, and that layer.

    Args:
        steps: in order; the last one's output goes into ``weight``.
        weight: float64 (num_classes, feature).
        bias: float64 (num_classes,).
    """

    steps: Sequence[Step]
    weight: Tensor
    bias: Tensor


def take_apart(model: nn.Module, image: Tensor, role: str = "model") -> Network:
    """Return a model's steps, in float64, on the image's device.

    Args:
        model: maps images to logits; left as it is.
        image: float (channel, height, width), of the kind that it takes.
        role: what messages call it.

    Raises:
        InputError: for a layer that is not affine in eval mode and is no ReLU, naming it, or a model that cannot be
            traced.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model).double().eval().requires_grad_(False))
    except Exception as error:  # what a trace trips over is as varied as Python
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the {role} cannot be taken apart for interval bounds ({reason}); they need a network of fixed layers: "
            f"{ACCEPTED}. Use --method clever or smoothing."
        ) from None
    reader = _Reader(traced, role)
    with torch.no_grad():
        steps, logits = reader.read()
        network = _split(steps, logits, reader)
        _try(network, image[None].double(), reader)
    return network


def run(network: Network, images: Tensor) -> list[Tensor]:
    """Return every value of a forward pass, the images first and the last step's output last."""
    values = [images]
    for step in network.steps:
        values.append(step.apply(*(values[source] for source in step.sources)))
    return values


def _try(network: Network, image: Tensor, reader: _Reader) -> None:
    try:
        run(network, image)
    except (RuntimeError, TypeError, IndexError) as error:
        raise reader.refused(f"a layer ({str(error).splitlines()[0]})") from None


def _split(steps: list[Step], logits: int, reader: _Reader) -> Network:
    """Return the network with its last linear layer apart: the identity where it ends in something else."""
    last = reader.linear.get(logits)
    if last is not None and logits == len(steps):
        source = steps[-1].sources[0]
        kept = steps[:source]
        if source == len(steps) - 1:
            return Network(tuple(kept), last.weight, _bias(last, last.weight[:, 0]))
    raise InputError(
        f"the {reader.role} does not end in a linear layer, whose output interval bounds take; end it with nn.Linear."
    )


class _Reader:
    """Turns the nodes of a traced module into steps."""

    def __init__(self, traced: fx.GraphModule, role: str) -> None:
        self.traced, self.role = traced, role
        self.modules: dict[str, nn.Module] = dict(traced.named_modules())
        self.places: dict[str, int] = {}  # of the values that depend on the images, by node
        self.constants: dict[str, Any] = {}
        self.linear: dict[int, nn.Linear] = {}
        self.steps: list[Step] = []

    def read(self) -> tuple[list[Step], int]:
        """Return the steps, and which value the logits are."""
        logits = -1
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "get_attr":
                self.constants[node.name] = operator.attrgetter(node.target)(self.traced)
            elif node.op == "output":
                logits = self.places.get(getattr(node.args[0], "name", ""), -1)
            else:
                self._step(node)
        if logits < 0:
            raise self.refused("its output")
        return self.steps, logits

    def refused(self, what: str) -> InputError:
        """Return the error for a layer without bounds."""
        return InputError(
            f"interval bounds do not cover {what} of the {self.role}; they cover {ACCEPTED}. Use --method clever or "
            "smoothing."
        )

    def _input(self, node: fx.Node) -> None:
        if self.places:
            raise self.refused("a second input")
        self.places[node.name] = 0

    def _step(self, node: fx.Node) -> None:
        if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
            self.constants[node.name] = BATCH
            return
        sources = tuple(self.places[arg.name] for arg in node.args if _among(arg, self.places))
        values = [VALUE if _among(arg, self.places) else self._constant(arg) for arg in node.args]
        if node.op == "call_module":
            layer = self.modules[str(node.target)]
            shown, parts = f"{type(layer).__name__} ({node.target})", _of_layer(layer)
        else:
            shown = str(getattr(node.target, "__name__", node.target))
            parts = _of_call(shown, values, {k: v for k, v in node.kwargs.items() if k != "inplace"})
        if parts is None or not sources:
            raise self.refused(f"the layer {shown}")
        self.steps.append(Step(str(node.name), sources, **parts))
        self.places[node.name] = len(self.steps)
        if node.op == "call_module" and isinstance(self.modules[str(node.target)], nn.Linear):
            self.linear[len(self.steps)] = self.modules[str(node.target)]  # pyright: ignore[reportArgumentType]

    def _constant(self, arg: Any) -> Any:
        return self.constants.get(arg.name, arg) if isinstance(arg, fx.Node) else arg


VALUE: Any = object()  # stands for an argument that depends on the images
BATCH: Any = object()  # stands for the number of images


def _among(arg: Any, places: dict[str, int]) -> bool:
    return isinstance(arg, fx.Node) and arg.name in places


def _of_layer(layer: nn.Module) -> dict[str, Any] | None:
    """Return a layer's functions; None for one without bounds. Exact types: a subclass may compute something else."""
    kind = type(layer)
    if kind in (nn.Identity, nn.Dropout, nn.Dropout2d):
        return _moved(_same)
    if kind is nn.ReLU:
        return {"apply": torch.relu}
    if kind is nn.Flatten:
        start, end = layer.start_dim, layer.end_dim
        return _moved(lambda x: torch.flatten(x, start, end)) if (start, end) == (1, -1) else None
    return _of_weights(layer)


def _of_weights(layer: nn.Module) -> dict[str, Any] | None:
    if type(layer) is nn.Linear:
        return _weighted(lambda x, w, b: F.linear(x, w, b), layer.weight, layer.bias, layer.in_features)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        terms = layer.weight[0].numel()
        stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
        return _weighted(
            lambda x, w, b: F.conv2d(x, w, b, stride, padding, dilation, groups), layer.weight, layer.bias, terms
        )
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.running_mean is not None:
        scale = (layer.running_var + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        moved = layer.running_mean * scale
        shift, offset = (
            (-moved, moved.abs()) if layer.bias is None else (layer.bias - moved, layer.bias.abs() + moved.abs())
        )
        return _scaled(scale, shift) | {"offset": offset}
    if type(layer) is nn.AvgPool2d:
        size = (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad)
        pool, simple = layer, layer.divisor_override is None and not layer.ceil_mode and layer.padding in (0, (0, 0))
        side = size[0] if isinstance(size[0], tuple) else (size[0], size[0])
        return _averaged(lambda x: F.avg_pool2d(x, pool.kernel_size, pool.stride), math.prod(side)) if simple else None
    if type(layer) is nn.AdaptiveAvgPool2d:
        return _means(lambda x: F.adaptive_avg_pool2d(x, 1)) if layer.output_size in (1, (1, 1)) else None
    return None


def _of_call(name: str, values: Sequence[Any], options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the functions of a call in a forward method."""
    rest = [value for value in values if value is not VALUE]
    branches = len(values) - len(rest)
    if name in ("relu", "relu_"):
        return {"apply": torch.relu}
    if name in ("add", "iadd", "sub", "mul", "truediv"):
        return _arithmetic(name, values, branches) if not options else None
    if name == "mean":
        dims = rest[0] if rest else options.get("dim")
        keep = bool(options.get("keepdim", False))
        return _means(lambda x: x.mean((2, 3), keepdim=keep)) if dims in ((2, 3), [2, 3], (-2, -1), [-2, -1]) else None
    if name == "adaptive_avg_pool2d":
        return _means(lambda x: F.adaptive_avg_pool2d(x, 1)) if rest in ([1], [(1, 1)]) and not options else None
    return _of_movement(name, rest, options)


def _of_movement(name: str, rest: Sequence[Any], options: dict[str, Any]) -> dict[str, Any] | None:
    if name == "flatten":
        start = rest[0] if rest else options.get("start_dim", 0)
        return _moved(lambda x: x.flatten(1)) if start == 1 and len(rest) < 2 and "end_dim" not in options else None
    if name == "getitem" and rest and isinstance(rest[0], tuple):
        where = rest[0]
        whole = all(isinstance(part, slice) for part in where) and where[0] == slice(None)
        return _moved(lambda x: x[where]) if whole else None
    if name == "pad" and rest and _pads_zeros(rest[1:], options):
        widths = rest[0]
        return _moved(lambda x: F.pad(x, widths)) if len(widths) in (4, 6) and min(widths) >= 0 else None
    if name in ("view", "reshape"):
        return _moved(lambda x: x.flatten(1)) if list(rest) == [BATCH, -1] else None
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


def _averaged(function: Map, count: int) -> dict[str, Any]:
    return {"apply": function, "magnitude": function, "squared": lambda r: function(r) / count, "terms": count}


def _means(function: Map) -> dict[str, Any]:
    """Return the functions of a mean over all pixels of each channel."""

    def squared(r: Tensor) -> Tensor:
        return function(r) / (r.shape[2] * r.shape[3])

    # The number of pixels is not known here; no map that fits in memory beside its channels has more.
    return {"apply": function, "magnitude": function, "squared": squared, "terms": 2**16}


def _bias(layer: nn.Linear, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if layer.bias is None else layer.bias
