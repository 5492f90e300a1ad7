"""Architectures and sources of models by name, and how a classifier is built from a spec.

An architecture is a builder with ``@register`` in ``kdiga.models.architectures``: it returns a network from
*normalised* images to logits, and :class:`Classifier` adds the normalisation. A source is a class with
``@register_source`` in ``kdiga.models.sources`` whose ``prefix`` begins its names, as in ``timm:resnet18``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import nn

from kdiga.errors import InputError, nearest, unknown
from kdiga.models.classifier import ACTIVATIONS, Classifier, ModelSpec
from kdiga.models.imagenet import CLASSES
from kdiga.models.input_layers import Normalization
from kdiga.plugins import import_all, load_plugins

Builder = Callable[[ModelSpec, type[nn.Module]], nn.Module]
_BUILDERS: dict[str, tuple[Builder, type[nn.Module]]] = {}


def register(*names: str, activation: type[nn.Module] = nn.ReLU) -> Callable[[Builder], Builder]:
    """Register a builder under ``names``; ``activation`` is the architecture's own."""

    def add(builder: Builder) -> Builder:
        for name in names:
            if name in _BUILDERS:
                raise InputError(f"two models are named {name!r}.")
            _BUILDERS[name] = (builder, activation)
        return builder

    return add


def available_models() -> Sequence[str]:
    """Return the names of architectures, also those that installed packages bring; sources have ``timm:NAME``."""
    import_all("kdiga.models.architectures")
    load_plugins("models")
    return tuple(_BUILDERS)


def is_architecture(name: str) -> bool:
    """Return whether an architecture has this name; other packages are imported only for a foreign name."""
    import_all("kdiga.models.architectures")
    return name in _BUILDERS or name in available_models()


def build(spec: ModelSpec) -> Classifier:
    """Build a freshly initialised classifier; the name in the spec may be a source's, such as ``timm:NAME``."""
    if ":" in spec.name:
        source, name = source_of(spec.name)
        return Classifier(spec, source.network(replace(spec, name=name)))
    if not is_architecture(spec.name):
        names = available_models()
        close = list(dict.fromkeys([*nearest(spec.name, names, most=2), *suggestions(spec.name)]))
        if close:
            raise InputError(f"model {spec.name!r} is not known; did you mean {' or '.join(close)}?")
        raise unknown("model", spec.name, names, "Other sources are given as timm:NAME, torchvision:NAME and so on.")
    if spec.options:
        raise InputError(f"{spec.name} has no options, and {', '.join(spec.options)} was given; leave it out.")
    builder, own = _BUILDERS[spec.name]
    return Classifier(spec, builder(spec, ACTIVATIONS.get(spec.activation, own)))


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
                raise InputError(f"{name}={text!r} does not apply to {self.name!r}: {reason}. Leave it out.")


class ModelSource(ABC):
    """A place that models come from."""

    prefix: ClassVar[str]  # of its names, before a colon
    form: ClassVar[str]  # of a name, for lists and messages
    brings_weights: ClassVar[bool] = True  # whether its models are trained without a request for weights
    extra: ClassVar[str] = ""  # name of kdiga's extra that installs its packages

    @abstractmethod
    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return a classifier for a name without the prefix."""

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the freshly initialised network of a spec whose name has no prefix, without a download."""
        raise InputError(f"{self.prefix}:{spec.name} is not an architecture, so no spec can name it.")

    def names(self) -> Iterable[str]:
        """Return the known names, without the prefix, for suggestions."""
        return ()


_SOURCES: dict[str, ModelSource] = {}


def register_source(kind: type[ModelSource]) -> type[ModelSource]:
    """Register a source by its prefix."""
    if kind.prefix in _SOURCES:
        raise InputError(f"two sources have the prefix {kind.prefix!r}.")
    _SOURCES[kind.prefix] = kind()
    return kind


def available_sources() -> Mapping[str, ModelSource]:
    """Return every source by its prefix; "" is the prefix of the built-in architectures."""
    import_all("kdiga.models.sources")
    return dict(sorted(_SOURCES.items()))


def source_of(name: str) -> tuple[ModelSource, str]:
    """Return the source of a name, and the name without its prefix.

    A folder is a run, and a name with a suffix or a folder in front is a file.
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
    """Return whether a name is the path of a "folder" or a "file"; "" for neither, and for an impossible path."""
    try:
        path = Path(name)
        return "folder" if path.is_dir() else "file" if path.is_file() else ""
    except (OSError, ValueError):  # too long, or with a null character
        return ""


def suggestions(name: str, *, most: int = 2) -> list[str]:
    """Return names of other sources similar to ``name``, with their prefixes, at most ``most`` a source."""
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
        f"{source.prefix} model {name!r} is not known; accepted: {source.form}, and no name there is similar."
    )


def missing_package(source: ModelSource, package: str) -> InputError:
    """Return the error for a missing package of a source."""
    return InputError(
        f"{source.form} needs the package {package}, which is not installed: pip install 'kdiga[{source.extra}]'."
    )
