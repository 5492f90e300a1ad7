"""Which architectures there are, and how a classifier is built from a name.

A module of this package registers a family of names with one builder. The builder returns logits
from *normalised* images; :class:`Classifier` puts the normalisation in front of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdiga.errors import InputError, nearest, unknown
from kdiga.models.fit import Fit
from kdiga.models.normalization import Normalization, Normalize

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}


# Left out of plain data where they say nothing, so that a model keeps its fingerprint.
_FITTING = ("input_size", "input_channels", "classes", "options")


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a classifier again; it travels in the checkpoint.

    Args:
        name: an architecture that ``kdiga models`` lists, or one of a source's, such as ``timm:NAME``.
        num_classes: of the network's last layer; length of the logits unless ``classes`` picks some of them.
        in_channels: of the network, 1 for grey, 3 for colour.
        image_size: of the network, height and width in pixels.
        activation: one of "relu", "silu", "gelu", "softplus"; "" is the architecture's own.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divided by.
        input_size: height and width of the images that the classifier is given; None is the network's. They are
            resized.
        input_channels: of those images; None is the network's.
        classes: which outputs of the network are the logits, in their order; () takes all. So a network of
            1,000 classes serves data of ten of them.
        options: more arguments of the source's own, such as timm's ``patch_size``; plain data.
    """

    name: str
    num_classes: int = 10
    in_channels: int = 3
    image_size: int = 32
    activation: str = ""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    input_size: int | None = None
    input_channels: int | None = None
    classes: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "image_size", "input_size", "input_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} was {value!r}; it must be at least 1.")
        if len(set(self.classes)) != len(self.classes) or not all(0 <= one < self.num_classes for one in self.classes):
            raise InputError(
                f"classes were {list(self.classes)[:12]}; give different numbers of the network's {self.num_classes} "
                "outputs, from 0."
            )
        if self.activation and self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    @property
    def architecture(self) -> str:
        """Its name, with the activation where that is not the architecture's own."""
        return f"{self.name}-{self.activation}" if self.activation else self.name

    def contradiction(self, given: Mapping[str, Any]) -> str | None:
        """Return how the spec differs from what was given of its fields, "x=1, not x=2"; None where it does not."""
        wrong = {key: value for key, value in given.items() if getattr(self, key) != value}
        if not wrong:
            return None
        own = ", ".join(f"{key}={getattr(self, key)!r}" for key in wrong)
        return f"{own}, not {', '.join(f'{key}={value!r}' for key, value in wrong.items())}"

    @property
    def takes(self) -> tuple[int, int, int]:
        """Channels and size of the images that the classifier is given, and the length of its logits."""
        return (
            self.input_channels or self.in_channels,
            self.input_size or self.image_size,
            len(self.classes) or self.num_classes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain data; what it leaves to the network is left out."""
        return {key: value for key, value in asdict(self).items() if key not in _FITTING or value not in (None, (), {})}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSpec:
        """Return the spec that :meth:`to_dict` wrote."""
        strange = sorted(data.keys() - {field.name for field in fields(cls)})
        if strange:
            raise InputError(f"a model has no {', '.join(strange)}; a newer kdiga wrote this, so upgrade to read it.")
        wrong = [name for name in data if not _is_kind(name, data[name])]
        if wrong:
            raise InputError(f"a model's {wrong[0]} was {data[wrong[0]]!r:.60}, which is no {wrong[0]}.")
        lists: dict[str, Any] = {name: tuple(data[name]) for name in ("mean", "std", "classes") if name in data}
        return cls(**(data | lists))


def _is_kind(field: str, value: Any) -> bool:
    """Return whether plain data out of a file may be the value of a spec's field."""
    if field in ("name", "activation"):
        return isinstance(value, str)
    if field == "options":
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in cast("Mapping[Any, Any]", value))
    if field in ("mean", "std", "classes"):
        kinds = (int,) if field == "classes" else (int, float)
        return isinstance(value, list | tuple) and all(type(one) in kinds for one in cast("Sequence[Any]", value))
    return type(value) is int or (value is None and field in _FITTING)


@dataclass(frozen=True)
class WeightsOrigin:
    """Where a classifier's weights came from.

    Args:
        source: in words.
        trained: whether somebody trained them.
        new_head: whether the last layer was replaced by an untrained one.
        notes: what loading did to make them fit, a sentence each.
    """

    source: str = "fresh weights"
    trained: bool = False
    new_head: bool = False
    notes: tuple[str, ...] = ()


class Classifier(nn.Module):
    """Maps images in [0, 1] to logits: fitted to the network's size, normalised, then the network."""

    picked: Tensor

    def __init__(self, spec: ModelSpec, network: nn.Module, origin: WeightsOrigin | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.origin = origin or WeightsOrigin()
        channels, size, _ = spec.takes
        self.fit = Fit(size, channels, spec.image_size, spec.in_channels)
        self.normalize = Normalize(Normalization(spec.mean, spec.std), spec.in_channels)
        self.network = network
        self.register_buffer("picked", torch.tensor(spec.classes, dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, classes) of images (batch, channel, height, width)."""
        logits = self.network(self.normalize(self.fit(images)))
        return logits[:, self.picked] if self.spec.classes else logits

    def fitted(self, *, channels: int, size: int, classes: Sequence[int] = ()) -> Classifier:
        """Return a classifier of other images or of some classes, in the same mode, which shares the network.

        Args:
            channels: of the images that it will be given.
            size: their height and width.
            classes: which outputs of the network are its logits; () leaves them as they are.

        Raises:
            InputError: for channels that cannot be turned into each other, or classes that the network has not.
        """
        spec = replace(
            self.spec,
            input_size=None if size == self.spec.image_size else size,
            input_channels=None if channels == self.spec.in_channels else channels,
            classes=tuple(classes) or self.spec.classes,
        )
        other = Classifier(spec, self.network, self.origin)
        other.normalize = self.normalize
        return other.to(self.normalize.mean.device).train(self.training)


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
    """Return the names of the built-in architectures; every source adds its own, such as ``timm:NAME``."""
    package = importlib.import_module("kdiga.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(_BUILDERS)


def build(spec: ModelSpec) -> Classifier:
    """Build a freshly initialised classifier.

    Args:
        spec: what to build; its name may be one of a source's, such as ``timm:NAME``.

    Raises:
        InputError: for an unknown name, or a package that is missing.
    """
    names = available_models()
    if ":" in spec.name:
        from kdiga.models.source import source_of

        source, name = source_of(spec.name)
        return Classifier(spec, source.network(replace(spec, name=name)))
    if spec.name not in _BUILDERS:
        raise _unknown_model(spec.name, names)
    if spec.options:
        raise InputError(f"{spec.name} has no options, and {', '.join(spec.options)} was given; leave it out.")
    builder, own = _BUILDERS[spec.name]
    return Classifier(spec, builder(spec, ACTIVATIONS.get(spec.activation, own)))


def _unknown_model(name: str, names: Sequence[str]) -> InputError:
    from kdiga.models.source import suggestions

    close = list(dict.fromkeys([*nearest(name, names, most=2), *suggestions(name)]))
    if close:
        return InputError(f"model {name!r} is not known; did you mean {' or '.join(close)}?")
    return unknown("model", name, names, "Other sources are given as timm:NAME, torchvision:NAME and so on.")


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())
