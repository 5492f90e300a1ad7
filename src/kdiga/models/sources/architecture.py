"""The built-in architectures, whose names have no prefix."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdiga.errors import InputError
from kdiga.models.foreign import fresh_or_filled
from kdiga.models.registry import Classifier, ModelSpec, available_models, build
from kdiga.models.source import ModelRequest, ModelSource, register_source


@register_source
class Architecture(ModelSource):
    """``resnet20`` and the like, with fresh weights or those of a file."""

    prefix = ""
    form = "NAME"
    brings_weights = False

    def load(self, request: ModelRequest, name: str) -> Classifier:
        """Return it with fresh weights, or with ``weights``."""
        if request.pretrained:
            raise InputError(f"{name} has no pretrained weights to fetch; give weights=FILE, or use timm:NAME.")
        spec = request.spec(name)
        if request.weights is None:
            request.refuse("it has no weights to match", "matched")
        return fresh_or_filled(spec, request.weights, given=request.given, matched=request.matched)

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the network."""
        return build(spec).network

    def names(self) -> Iterable[str]:
        """Return their names."""
        return available_models()
