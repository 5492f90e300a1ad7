"""The depth of each parameter in a network, and the parameters of its head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from kdiga.models.classifier import Classifier

BLOCKS = (nn.Sequential, nn.ModuleList)


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter by its name, from 0 at the images; the last layer holds the head.

    A network of timm, or of timm's layers, states how its parameters are grouped: a transformer's blocks are its
    layers. Otherwise each module, or each block of a stage, is a layer in its order; a norm belongs to the layer before
    it.
    """
    network, above = _network(model)
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters  # here, because timm loads slowly

        found = cast("dict[str, int]", group_parameters(network, matcher(coarse=False), reverse=True))
    else:
        found = _by_order(network)
    head, last = head_of(network), max(found.values(), default=0)
    if head and any(found[name] == last for name in found if name not in head):
        last += 1  # timm groups a last norm, or a whole last stage, with the head
    depths = {name: last if name in head else found.get(name, last) for name, _ in network.named_parameters()}
    depths = {above + name: depth for name, depth in depths.items()}
    return {name: depths.get(name, 0) for name, _ in model.named_parameters()}


def head_of(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that turn features into logits.

    They are the parameters of ``get_classifier()``, as in timm's networks; otherwise those of the last module.
    """
    network, above = _network(model)
    get: Any = getattr(network, "get_classifier", None)
    head: Any = None if get is None else get()
    if not isinstance(head, nn.Module) or not any(True for _ in head.parameters()):
        leaves = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]
        if not leaves:
            return frozenset()
        head = leaves[-1]
    own = {id(parameter) for parameter in head.parameters()}
    return frozenset(above + name for name, parameter in network.named_parameters() if id(parameter) in own)


def _network(model: nn.Module) -> tuple[nn.Module, str]:
    return (model.network, "network.") if isinstance(model, Classifier) else (model, "")


def _by_order(network: nn.Module) -> dict[str, int]:
    depth, found = -1, dict[str, int]()
    for name, module in _units(network):
        parameters = dict(module.named_parameters(prefix=name))
        # A norm has vectors only; it does not start a layer.
        depth += any(parameter.dim() > 1 for parameter in parameters.values())
        found |= dict.fromkeys(parameters, max(depth, 0))
    return dict.fromkeys((name for name, _ in network.named_parameters(recurse=False)), 0) | found


def _units(module: nn.Module, above: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, BLOCKS):
            yield from _units(child, f"{above}{name}.")
        else:
            yield above + name, child
