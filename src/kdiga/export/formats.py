"""The registry of export formats: each is a module of this package that registers how a file is written and read.

Reading returns the file at work, as a function from images to logits. So every check and every measurement is about
the exported file, not about the model that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from kdiga.errors import InputError, check_known
from kdiga.models import Classifier
from kdiga.plugins import import_all

Logits = Callable[[Tensor], Tensor]
"""Maps images, float32 (batch, channel, height, width) in [0, 1] on the CPU, to logits (batch, classes) on the CPU."""


@dataclass(frozen=True)
class Format:
    """An export format."""

    name: str  # name for ``--to``
    file: str  # name of the file or folder
    runtime: str  # distribution that runs it; results name its version
    write: Callable[[Classifier, Path], None]  # function that writes a model, in eval mode on the CPU, to a path
    # Function from a path to the file's function from images to logits; it checks nothing.
    read: Callable[[Path], Logits]
    is_model: bool = False  # whether reading gives the model itself, bit for bit, and not a program made from it
    packages: tuple[str, ...] = ()  # import names of required packages
    extra: str = ""  # extra of kdiga that installs them

    def check_packages(self) -> None:
        """Check that the required packages are installed."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise InputError(
                f"export to {self.name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
                f"installed; install with: pip install 'kdiga[{self.extra}]'"
            )


_FORMATS: dict[str, Format] = {}


def register(entry: Format) -> Format:
    """Add a format to the registry."""
    if entry.name in _FORMATS:
        raise InputError(f"two formats are named {entry.name!r}.")
    _FORMATS[entry.name] = entry
    return entry


def available_formats() -> tuple[str, ...]:
    """Return the names of the formats."""
    import_all("kdiga.export")
    return tuple(sorted(_FORMATS))


def formats_by_name(names: Sequence[str]) -> list[Format]:
    """Return formats by name, each once, in the given order."""
    known = available_formats()
    chosen = list(dict.fromkeys(name.strip().lower() for name in names))
    if not any(chosen):
        raise InputError(f"no format was given; accepted: {', '.join(known)}.")
    for name in chosen:
        check_known("format", name, known)
    return [_FORMATS[name] for name in chosen]


def example_images(model: Classifier) -> Tensor:
    """Return two images for tracing; a batch of one would become a constant."""
    channels, size, _ = model.spec.takes
    return torch.full((2, channels, size, size), 0.5)


def refusal(what: str, model: Classifier, error: BaseException) -> InputError:
    """Return the error for a network that cannot be exported, with the reason in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = next((line for line in lines if not line.startswith(("#", "Failed to export", "##"))), lines[0])
    return InputError(
        f"{model.spec.name} cannot be exported to {what}: {reason[:200]}. Export it to safetensors, which takes every "
        "network."
    )
