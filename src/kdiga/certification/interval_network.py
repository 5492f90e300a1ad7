"""A network taken apart into affine steps and ReLUs, so that bounds can be carried through it.

The network is traced by ``torch.fx``. Every layer but the ReLU is affine in eval mode, ``y = A x + b``, and each is
kept as three functions: itself; ``|A|``, which carries radii of intervals; and ``A`` with squared entries, which
carries squared row norms. A layer that is neither is refused by name: a bound that guesses would prove nothing.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from kdiga.certification.interval_layers import BATCH, COVERED, VALUE, Map, of_call, of_layer
from kdiga.errors import InputError


@dataclass(frozen=True)
class AffineLayer:
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

    steps: Sequence[AffineLayer]
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
        copied = copy.deepcopy(model).double().eval().requires_grad_(False)
        traced = fx.symbolic_trace(copied)
    except Exception as error:  # what a trace trips over is as varied as Python
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the {role} cannot be taken apart for interval bounds ({reason}); they need a network of fixed layers: "
            f"{COVERED}. Use --method clever or smoothing."
        ) from None
    reader = _NetworkReader(traced, role)
    with torch.no_grad():
        steps, logits = reader.read()
        network = _split(steps, logits, reader)
        _try(network, copied, image[None].double(), reader)
    return network


def run(network: Network, images: Tensor) -> list[Tensor]:
    """Return every value of a forward pass, the images first and the last step's output last."""
    values = [images]
    for step in network.steps:
        values.append(step.apply(*(values[source] for source in step.sources)))
    return values


def _try(network: Network, model: nn.Module, image: Tensor, reader: _NetworkReader) -> None:
    """Check that the steps compute what the model does: hooks, for one, leave no trace."""
    expected = model(image)
    try:
        logits = run(network, image)[-1] @ network.weight.T + network.bias
    except (RuntimeError, TypeError, IndexError) as error:
        raise reader.refused(f"a layer ({str(error).splitlines()[0]})") from None
    tiny = 1e-6 * float(expected.abs().max())
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-6, atol=tiny):
        raise reader.refused("something beside the layers, such as a hook,")


def _split(steps: list[AffineLayer], logits: int, reader: _NetworkReader) -> Network:
    """Return the network with its last linear layer apart."""
    last = reader.linear.get(logits)
    if last is not None and logits == len(steps):
        source = steps[-1].sources[0]
        kept = steps[:source]
        if source == len(steps) - 1:
            return Network(tuple(kept), last.weight, _bias(last))
    raise InputError(
        f"the {reader.role} does not end in a linear layer, whose output interval bounds take; end it with nn.Linear."
    )


class _NetworkReader:
    """Turns the nodes of a traced module into steps."""

    def __init__(self, traced: fx.GraphModule, role: str) -> None:
        self.traced, self.role = traced, role
        self.modules: dict[str, nn.Module] = dict(traced.named_modules())
        self.places: dict[str, int] = {}  # of the values that depend on the images, by node
        self.constants: dict[str, Any] = {}
        self.linear: dict[int, nn.Linear] = {}
        self.steps: list[AffineLayer] = []

    def read(self) -> tuple[list[AffineLayer], int]:
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
            f"interval bounds do not cover {what} of the {self.role}; they cover {COVERED}. Use --method clever or "
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
        sources = tuple(self.places[_name(arg)] for arg in node.args if _name(arg) in self.places)
        values = [VALUE if _name(arg) in self.places else self._constant(arg) for arg in node.args]
        if node.op == "call_module":
            layer = self.modules[str(node.target)]
            shown, parts = f"{type(layer).__name__} ({node.target})", of_layer(layer)
        else:
            shown = str(getattr(node.target, "__name__", node.target))
            parts = of_call(shown, values, {k: v for k, v in node.kwargs.items() if k != "inplace"})
        if parts is None or not sources:
            raise self.refused(f"the layer {shown}")
        self.steps.append(AffineLayer(str(node.name), sources, **parts))
        self.places[node.name] = len(self.steps)
        layer = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Linear):
            self.linear[len(self.steps)] = layer

    def _constant(self, arg: Any) -> Any:
        return self.constants.get(_name(arg), arg)


def _name(arg: Any) -> str:
    """Return the name of a node; "" for a constant."""
    return arg.name if isinstance(arg, fx.Node) else ""


def _bias(layer: nn.Linear) -> Tensor:
    bias = cast("Tensor | None", layer.bias)
    return layer.weight.new_zeros(len(layer.weight)) if bias is None else bias
