"""Which architectures there are, and how a classifier is built from a name.

A module of this package registers a family of names with one builder. The builder returns logits
from *normalised* images; :class:`Classifier` puts the normalisation in front of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from kdiga.errors import InputError, unknown
from kdiga.models.normalization import Normalization, Normalize

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a classifier again; it travels in the checkpoint.

    Args:
        name: an architecture that ``kdiga models`` lists, or ``timm:NAME``.
        num_classes: length of the logits.
        in_channels: 1 for grey, 3 for colour.
        image_size: height and width in pixels.
        activation: one of "relu", "silu", "gelu", "softplus"; "" is the architecture's own.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divided by.
    """

    name: str
    num_classes: int = 10
    in_channels: int = 3
    image_size: int = 32
    activation: str = ""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for field in ("num_classes", "in_channels", "image_size"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} was {getattr(self, field)!r}; it must be at least 1.")
        if self.activation and self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSpec:
        """Return the spec that :meth:`to_dict` wrote."""
        rest = {key: value for key, value in data.items() if key not in ("mean", "std")}
        return cls(**rest, mean=tuple(data["mean"]), std=tuple(data["std"]))


class Classifier(nn.Module):
    """Maps images in [0, 1] to logits: a normalisation layer, then a network."""

    def __init__(self, spec: ModelSpec, network: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = Normalize(Normalization(spec.mean, spec.std), spec.in_channels)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, channel, height, width)."""
        return self.network(self.normalize(images))


Builder = Callable[[ModelSpec, type[nn.Module]], nn.Module]
_BUILDERS: dict[str, tuple[Builder, type[nn.Module]]] = {}


def register(*names: str, activation: type[nn.Module] = nn.ReLU) -> Callable[[Builder], Builder]:
    """Make a builder known under ``names``; ``activation`` is the architecture's own."""

    def keep(builder: Builder) -> Builder:
        for name in names:
            if name in _BUILDERS:
                raise InputError(f"two models are named {name!r}.")
            _BUILDERS[name] = (builder, activation)
        return builder

    return keep


def available_models() -> Sequence[str]:
    """Return the names of the built-in architectures; ``timm:NAME`` adds every architecture of timm."""
    package = importlib.import_module("kdiga.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(_BUILDERS)


def build(spec: ModelSpec, *, pretrained: bool = False) -> Classifier:
    """Build a freshly initialised classifier.

    Args:
        spec: what to build.
        pretrained: ask timm for its pretrained weights.

    Raises:
        InputError: for an unknown name, or pretrained weights of a built-in architecture.
    """
    names = available_models()
    if spec.name.startswith("timm:"):
        from kdiga.models.timm_adapter import build_timm

        return Classifier(spec, build_timm(spec, pretrained=pretrained))
    if spec.name not in _BUILDERS:
        raise unknown("model", spec.name, names, "Any timm architecture is timm:NAME.")
    if pretrained:
        raise InputError(f"{spec.name} has no pretrained weights to fetch; give weights=FILE, or use timm:NAME.")
    builder, own = _BUILDERS[spec.name]
    return Classifier(spec, builder(spec, ACTIVATIONS.get(spec.activation, own)))


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())
