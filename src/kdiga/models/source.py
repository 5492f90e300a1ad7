"""What a source of models is, and which there are.

A source is one file of this package: a class with ``@register`` whose ``prefix`` stands in front of its names, as in
``timm:resnet18``. Nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import nn

from kdiga.errors import InputError, nearest
from kdiga.models.imagenet import CLASSES
from kdiga.models.normalization import Normalization
from kdiga.models.registry import Classifier, ModelSpec


class Shape(NamedTuple):
    """Channels and size of images, and how many classes they have."""

    channels: int
    size: int
    classes: int


@dataclass(frozen=True)
class ModelRequest:
    """What the caller of :func:`kdiga.load_model` wants; None leaves it to the source.

    Args:
        name: with its prefix, as it was given.
        weights: a file of weights.
        num_classes: outputs of the network.
        in_channels: of the network.
        image_size: of the network, in pixels.
        activation: in place of the architecture's own.
        normalization: the layer in front.
        pretrained: whether the source's own weights are wanted.
        which: "best" or "last" weights of a run.
        architecture: of weights that do not say theirs.
        matched: how a file's tensors find their places: "name" or "order".
        options: more arguments of the source's own.
        picks: how outputs of the network will be picked, by "names" of ImageNet's classes or by "indices", so that it
            keeps them all; "" if none are.
        images: what the model will be given; a network without a shape of its own is built for them.
    """

    name: str
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
    picks: str = ""
    images: Shape | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What was given of a model's spec, by the names of its fields."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in ("num_classes", "in_channels", "image_size", "activation")
        }
        if self.normalization is not None:
            values |= {"mean": self.normalization.mean, "std": self.normalization.std}
        if self.options:
            values["options"] = dict(self.options)
        return {name: value for name, value in values.items() if value is not None}

    def spec(self, name: str, **own: Any) -> ModelSpec:
        """Return the spec of a network called ``name``: what was given, else its own, else for the images."""
        images: dict[str, Any] = {"num_classes": CLASSES} if self.picks == "names" else {}
        if self.images is not None:
            channels, size, classes = self.images
            images |= {"in_channels": channels, "image_size": size} | ({} if self.picks else {"num_classes": classes})
        return ModelSpec(name, **(images | own | self.given))

    def outputs(self, own: int) -> int:
        """Return how many outputs a trained network of ``own`` keeps: all where some are picked, else as the images."""
        if self.num_classes is not None or self.picks or self.images is None:
            return self.num_classes or own
        return self.images.classes

    def refuse(self, reason: str, *names: str) -> None:
        """Check that nothing was given that has no place.

        Raises:
            InputError: with the reason, for the first of ``names`` that is not at its default.
        """
        for name in names:
            value = getattr(self, name)
            if value not in (None, False, "name", {}):
                raise InputError(f"{name}={_told(value)} has no place with {self.name!r}: {reason}. Leave it out.")


def _told(value: Any) -> str:
    return repr(str(value)) if isinstance(value, Path) else repr(value)


class ModelSource(ABC):
    """Somewhere models come from."""

    prefix: ClassVar[str]  # in front of its names, before a colon
    form: ClassVar[str]  # of a name, for lists and messages
    brings_weights: ClassVar[bool] = True  # whether what it loads is trained without being asked for weights
    extra: ClassVar[str] = ""  # of kdiga, which installs what it needs

    @abstractmethod
    def load(self, request: ModelRequest, name: str) -> Classifier:
        """Return a classifier.

        Args:
            request: everything that was asked for.
            name: without the prefix.

        Raises:
            InputError: if it cannot be had.
        """

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the network of a spec whose name has lost its prefix, freshly initialised, without any download.

        Raises:
            InputError: for an unknown name.
        """
        raise InputError(f"{self.prefix}:{spec.name} is no architecture, so no spec can name it.")

    def names(self) -> Iterable[str]:
        """Return the names that are known beforehand, without the prefix, for suggestions."""
        return ()


_SOURCES: dict[str, ModelSource] = {}


def register_source(kind: type[ModelSource]) -> type[ModelSource]:
    """Make a source known by its prefix."""
    if kind.prefix in _SOURCES:
        raise InputError(f"two sources have the prefix {kind.prefix!r}.")
    _SOURCES[kind.prefix] = kind()
    return kind


def available_sources() -> Mapping[str, ModelSource]:
    """Return every source by its prefix; "" is that of the built-in architectures."""
    package = importlib.import_module("kdiga.models.sources")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_SOURCES.items()))


def source_of(name: str) -> tuple[ModelSource, str]:
    """Return the source of a name, and the name without its prefix.

    A folder is a run, and what has a suffix or a folder in front is a file.

    Raises:
        InputError: for an unknown prefix.
    """
    sources = available_sources()
    prefix, colon, rest = name.partition(":")
    if colon and prefix in sources:
        if not rest:
            raise InputError(f"{name!r} names no model; give {sources[prefix].form}.")
        return sources[prefix], rest
    path, found = Path(name), found_at(name)
    if found == "folder":
        return sources["run"], name
    if found == "file" or (not colon and (path.suffix or path.parent != Path())):
        return sources["file"], name
    if not colon:
        return sources[""], name
    forms = [source.form for source in sources.values() if source.prefix]
    close = nearest(prefix, [one for one in sources if one], most=1)
    hint = f"did you mean {close[0]}:{rest}?" if close else f"accepted: {', '.join(forms)}, or an architecture's name."
    raise InputError(f"source {prefix!r} of {name!r} is not known; {hint}")


def found_at(name: str) -> str:
    """Return whether there is a "folder" or a "file" of some name; "" for neither, and for what no path can be."""
    try:
        path = Path(name)
        return "folder" if path.is_dir() else "file" if path.is_file() else ""
    except (OSError, ValueError):  # too long, or with a null character
        return ""


def suggestions(name: str, *, most: int = 2) -> list[str]:
    """Return names of other sources that look like ``name``, with their prefixes, at most ``most`` a source."""
    found: list[str] = []
    for prefix, source in available_sources().items():
        if prefix:
            found += [f"{prefix}:{one}" for one in nearest(name, source.names(), most=most)]
    return found


def unknown_name(source: ModelSource, name: str) -> InputError:
    """Return the error for a name that a source does not know, with the nearest of every source."""
    own = nearest(name, source.names(), most=3)
    others = [one for one in suggestions(name, most=1) if not one.startswith(f"{source.prefix}:")]
    close = [f"{source.prefix}:{one}" for one in own] + others
    if close:
        return InputError(f"{source.prefix} model {name!r} is not known; did you mean {' or '.join(close)}?")
    return InputError(
        f"{source.prefix} model {name!r} is not known; accepted: {source.form}, and nothing there looks like it."
    )


def missing_package(source: ModelSource, package: str) -> InputError:
    """Return the error for a package that a source needs."""
    return InputError(
        f"{source.form} needs the package {package}, which is not installed: pip install 'kdiga[{source.extra}]'."
    )
