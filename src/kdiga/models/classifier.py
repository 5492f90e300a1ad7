"""A classifier, its spec and the origin of its weights: images in [0, 1] to logits, normalisation inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdiga.errors import InputError, check_at_least, unknown
from kdiga.model_output import logits_of
from kdiga.models.input_layers import Fit, Normalization, Normalize

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}
# Left out of plain data at their defaults, so that a model's fingerprint stays the same.
_FITTING = ("input_size", "input_channels", "classes", "options")


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a classifier again; checkpoints contain it.

    Args:
        name: Name of an architecture that ``kdiga models`` lists, or of a source's, such as ``timm:NAME``.
        num_classes: Outputs of the network's last layer; length of the logits unless ``classes`` picks some of them.
        in_channels: Channels of the network's images, 1 for grey, 3 for colour.
        image_size: Height and width of the network's images in pixels.
        activation: "relu", "silu", "gelu" or "softplus"; "" is the architecture's own.
        mean: Mean per channel, subtracted from pixels in [0, 1].
        std: Standard deviation per channel, a divisor.
        input_size: Height and width of the classifier's images, which are resized; None is the network's.
        input_channels: Channels of the classifier's images; None is the network's.
        classes: Outputs of the network that are the logits, in their order; () takes all. So a network of 1,000
            classes serves data of ten of them.
        options: More arguments of the source, such as timm's ``patch_size``; plain data.
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
            check_at_least(1, **{name: getattr(self, name)})
        if len(set(self.classes)) != len(self.classes) or not all(0 <= one < self.num_classes for one in self.classes):
            raise InputError(
                f"classes were {list(self.classes)[:12]}; give different numbers of the network's {self.num_classes} "
                "outputs, from 0."
            )
        if self.activation and self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    @property
    def architecture(self) -> str:
        """The name, with the activation where that is not the architecture's own."""
        return f"{self.name}-{self.activation}" if self.activation else self.name

    def contradiction(self, given: Mapping[str, Any]) -> str | None:
        """Return how the spec differs from given fields, "x=1, not x=2"; None where it does not."""
        wrong = {key: value for key, value in given.items() if getattr(self, key) != value}
        if not wrong:
            return None
        own = ", ".join(f"{key}={getattr(self, key)!r}" for key in wrong)
        return f"{own}, not {', '.join(f'{key}={value!r}' for key, value in wrong.items())}"

    @property
    def takes(self) -> tuple[int, int, int]:
        """Channels and size of the classifier's images, and the length of its logits."""
        return (
            self.input_channels or self.in_channels,
            self.input_size or self.image_size,
            len(self.classes) or self.num_classes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain data, without the fields that are left to the network."""
        return {key: value for key, value in asdict(self).items() if key not in _FITTING or value not in (None, (), {})}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSpec:
        """Return the spec that :meth:`to_dict` wrote."""
        strange = sorted(data.keys() - {field.name for field in fields(cls)})
        if strange:
            raise InputError(f"a model has no {', '.join(strange)}; a newer kdiga wrote this, so upgrade to read it.")
        wrong = [name for name in data if not _is_kind(name, data[name])]
        if wrong:
            raise InputError(f"a model's {wrong[0]} was {data[wrong[0]]!r:.60}, which is not a {wrong[0]}.")
        lists: dict[str, Any] = {name: tuple(data[name]) for name in ("mean", "std", "classes") if name in data}
        return cls(**(data | lists))


def _is_kind(field: str, value: Any) -> bool:
    """Return whether plain data from a file may be the value of a spec's field."""
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
    """Where a classifier's weights came from."""

    source: str = "fresh weights"  # the source, in words
    trained: bool = False  # whether the weights are trained
    new_head: bool = False  # whether the last layer was replaced by an untrained one
    notes: tuple[str, ...] = ()  # changes that loading made, a sentence each


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
        logits = logits_of(self.network(self.normalize(self.fit(images))))
        return logits[:, self.picked] if self.spec.classes else logits

    def fitted(self, *, channels: int, size: int, classes: Sequence[int] = ()) -> Classifier:
        """Return a classifier of other images or of some classes, in the same mode, with the same network.

        Args:
            channels: Channels of its images.
            size: Height and width of its images in pixels.
            classes: Outputs of the network that are its logits; () leaves them as they are.

        Raises:
            InputError: for channels that cannot be converted, or classes that the network does not have.
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


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())
