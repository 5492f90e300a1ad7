"""A network as a list of affine layers and ReLUs, so that interval bounds can pass through it.

``torch.fx`` traces the network. A layer that interval bounds do not cover is refused by name: a bound that guesses
proves nothing.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from kdiga.certification.interval_layers import BATCH, COVERED, VALUE, AffineLayer, affine_call, affine_module
from kdiga.errors import InputError


@dataclass(frozen=True)
class TracedNetwork:
    """Layers up to the last linear layer, and the parameters of that layer."""

    layers: Sequence[AffineLayer]  # layers in order; the output of the last one goes into ``weight``
    weight: Tensor  # float64 (num_classes, feature)
    bias: Tensor  # float64 (num_classes,)

    def values(self, images: Tensor) -> list[Tensor]:
        """Return all values of a forward pass, the images first and the input of the last linear layer last."""
        values = [images]
        for layer in self.layers:
            values.append(layer.apply(*(values[source] for source in layer.sources)))
        return values

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of float64 images."""
        return self.values(images)[-1] @ self.weight.T + self.bias


def trace_network(model: nn.Module, image: Tensor, role: str = "model") -> TracedNetwork:
    """Return the layers of a model, in float64, on the device of an example image (channel, height, width).

    The model does not change; ``role`` is its name in error messages.

    Raises:
        InputError: If a layer is not covered (the message names it), or the model cannot be traced.
    """
    try:
        copied = copy.deepcopy(model).double().eval().requires_grad_(False)
        traced = fx.symbolic_trace(copied)
    except Exception as error:  # a trace can fail with any error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the {role} cannot be traced for interval bounds ({reason}); they need a network of fixed layers: "
            f"{COVERED}. Use --method clever or smoothing."
        ) from None
    reader = _GraphReader(traced, role)
    with torch.no_grad():
        network = reader.network()
        _check_logits(network, copied, image[None].double(), reader)
    return network


def _check_logits(network: TracedNetwork, model: nn.Module, image: Tensor, reader: _GraphReader) -> None:
    """Check that the traced layers compute the logits of the model: a trace does not contain hooks, for example."""
    expected = model(image)
    try:
        logits = network.logits(image)
    except (RuntimeError, TypeError, IndexError) as error:
        raise reader.refused(f"a layer ({str(error).splitlines()[0]})") from None
    tiny = 1e-6 * float(expected.abs().max())
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-6, atol=tiny):
        raise reader.refused("something other than the layers, such as a hook,")


class _GraphReader:
    """Turns the nodes of a traced module into layers."""

    def __init__(self, traced: fx.GraphModule, role: str) -> None:
        self.traced, self.role = traced, role
        self.modules: dict[str, nn.Module] = dict(traced.named_modules())
        self.places: dict[str, int] = {}  # places of the values that depend on the images, by node name
        self.constants: dict[str, Any] = {}
        self.linear: dict[int, nn.Linear] = {}
        self.layers: list[AffineLayer] = []

    def network(self) -> TracedNetwork:
        """Return the network with its last linear layer split off."""
        logits = self._read()
        last = self.linear.get(logits)
        if last is not None and logits == len(self.layers):
            source = self.layers[-1].sources[0]
            if source == len(self.layers) - 1:
                bias = cast("Tensor | None", last.bias)
                bias = last.weight.new_zeros(len(last.weight)) if bias is None else bias
                return TracedNetwork(tuple(self.layers[:source]), last.weight, bias)
        raise InputError(
            f"the {self.role} does not end in a linear layer, and interval bounds need one; end it with nn.Linear."
        )

    def refused(self, what: str) -> InputError:
        """Return the error for a layer without bounds."""
        return InputError(
            f"interval bounds do not cover {what} of the {self.role}; they cover {COVERED}. Use --method clever or "
            "smoothing."
        )

    def _read(self) -> int:
        """Read all nodes, and return the place of the logits."""
        logits = -1
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                if self.places:
                    raise self.refused("a second input")
                self.places[node.name] = 0
            elif node.op == "get_attr":
                self.constants[node.name] = operator.attrgetter(node.target)(self.traced)
            elif node.op == "output":
                logits = self.places.get(getattr(node.args[0], "name", ""), -1)
            elif node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
                self.constants[node.name] = BATCH
            else:
                self._add_layer(node)
        if logits < 0:
            raise self.refused("its output")
        return logits

    def _add_layer(self, node: fx.Node) -> None:
        sources = tuple(self.places[_name(arg)] for arg in node.args if _name(arg) in self.places)
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if module is not None:
            shown, layer = f"{type(module).__name__} ({node.target})", affine_module(module)
        else:
            shown = str(getattr(node.target, "__name__", node.target))
            values = [VALUE if _name(arg) in self.places else self.constants.get(_name(arg), arg) for arg in node.args]
            layer = affine_call(shown, values, {k: v for k, v in node.kwargs.items() if k != "inplace"})
        if layer is None or not sources:
            raise self.refused(f"the layer {shown}")
        self.layers.append(replace(layer, sources=sources, name=str(node.name)))
        self.places[node.name] = len(self.layers)
        if isinstance(module, nn.Linear):
            self.linear[len(self.layers)] = module


def _name(arg: Any) -> str:
    """Return the name of a node; "" for a constant."""
    return arg.name if isinstance(arg, fx.Node) else ""
