"""What the caller of :func:`kdiga.load_model` asks for, as one object for every source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdiga.errors import InputError
from kdiga.models.classifier import ModelSpec
from kdiga.models.imagenet import CLASSES
from kdiga.models.input_layers import Normalization


class Shape(NamedTuple):
    """Channels, size and number of classes of images."""

    channels: int
    size: int
    classes: int


@dataclass(frozen=True)
class SourceRequest:
    """The arguments of :func:`kdiga.load_model`; None leaves a value to the source."""

    name: str  # name with its prefix, as given
    weights: Path | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    image_size: int | None = None
    activation: str | None = None
    normalization: Normalization | None = None
    pretrained: bool = False
    which: str = "best"
    architecture: str | None = None
    matched: str = "name"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    # How outputs of the network are picked, by "names" of ImageNet's classes or by "indices", so that it needs them
    # all; "" if none are.
    picks: str = ""
    images: Shape | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The given fields of a model's spec, by name."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in ("num_classes", "in_channels", "image_size", "activation")
        }
        if self.normalization is not None:
            values |= {"mean": self.normalization.mean, "std": self.normalization.std}
        if self.options:
            values["options"] = dict(self.options)
        return {name: value for name, value in values.items() if value is not None}

    def spec(self, name: str, **own: Any) -> ModelSpec:
        """Return the spec of a network ``name``: given values first, then its own, then those of the images."""
        images: dict[str, Any] = {"num_classes": CLASSES} if self.picks == "names" else {}
        if self.images is not None:
            channels, size, classes = self.images
            images |= {"in_channels": channels, "image_size": size} | ({} if self.picks else {"num_classes": classes})
        return ModelSpec(name, **(images | own | self.given))

    def outputs(self, own: int) -> int:
        """Return how many outputs a trained network of ``own`` has in the end: all where some are picked."""
        if self.num_classes is not None or self.picks or self.images is None:
            return self.num_classes or own
        return self.images.classes

    def refuse(self, reason: str, *names: str) -> None:
        """Check that no argument was given that the source does not take.

        Raises:
            InputError: with the reason, for the first of ``names`` that is not at its default.
        """
        for name in names:
            value = getattr(self, name)
            if value not in (None, False, "name", {}):
                text = str(value) if isinstance(value, Path) else value
                raise InputError(f"{name}={text!r} has no place with {self.name!r}: {reason}. Leave it out.")
