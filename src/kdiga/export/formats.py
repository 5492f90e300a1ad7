"""Which formats a model can be exported to: each a module of this package that registers how it is written and read.

What is read back is the file itself at work, as a function from images to logits; so every check and every figure is
about what was exported, not about the model it came from.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from kdiga.errors import InputError, unknown
from kdiga.models import Classifier

Logits = Callable[[Tensor], Tensor]
"""Maps images, float32 (batch, channel, height, width) in [0, 1] on the CPU, to logits (batch, classes) there."""


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        name: as ``--to`` takes it.
        file: name of the file or folder that is written.
        runtime: distribution that runs it, whose version belongs to every figure.
        write: writes a model, in eval mode on the CPU, to a path.
        read: returns the file's function from images to logits; it checks nothing.
        is_model: what is read back is the model itself, every weight the same bits, rather than a program made of it.
        packages: that must be installed, by import name.
        extra: of kdiga, that brings them.
    """

    name: str
    file: str
    runtime: str
    write: Callable[[Classifier, Path], None]
    read: Callable[[Path], Logits]
    is_model: bool = False
    packages: tuple[str, ...] = ()
    extra: str = ""

    def check_packages(self) -> None:
        """Check that the format can be written and run here.

        Raises:
            InputError: naming what is missing and how it is had.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise InputError(
                f"export to {self.name} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
                f"installed; install with: pip install 'kdiga[{self.extra}]'"
            )


_FORMATS: dict[str, Format] = {}


def register(entry: Format) -> Format:
    """Make a format known by its name."""
    if entry.name in _FORMATS:
        raise InputError(f"two formats are named {entry.name!r}.")
    _FORMATS[entry.name] = entry
    return entry


def available_formats() -> tuple[str, ...]:
    """Return the names of the formats."""
    package = importlib.import_module("kdiga.export")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_FORMATS))


def formats_by_name(names: Sequence[str]) -> list[Format]:
    """Return formats by name, each once, in the order given.

    Raises:
        InputError: for no name or an unknown one.
    """
    known = available_formats()
    chosen = list(dict.fromkeys(name.strip().lower() for name in names))
    if not any(chosen):
        raise InputError(f"no format was given; accepted: {', '.join(known)}.")
    for name in chosen:
        if name not in known:
            raise unknown("format", name, known)
    return [_FORMATS[name] for name in chosen]


def refusal(what: str, model: Classifier, error: BaseException) -> InputError:
    """Return the error for a network that cannot be exported: the reason in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = next((line for line in lines if not line.startswith(("#", "Failed to export", "##"))), lines[0])
    return InputError(
        f"{model.spec.name} cannot be exported to {what}: {reason[:200]}. Export it to safetensors, which takes every "
        "network."
    )
