"""Models, data sets and methods that modules register: those of kdiga's packages, and of other installed ones.

An installed package names a module in the group ``kdiga.models``, ``kdiga.data`` or ``kdiga.methods``. The module
registers what it brings, as the modules of this package do.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from kdiga.errors import reason_of, warn


def import_all(package: str) -> None:
    """Import the modules of one of kdiga's packages, which register what they hold."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


@cache
def load_plugins(kind: Literal["models", "data", "methods"]) -> None:
    """Import the modules that installed packages name for a kind, once in a process.

    Warns:
        KdigaWarning: If a module cannot be imported; the others are.
    """
    for entry in entry_points(group=f"kdiga.{kind}"):
        try:
            entry.load()
        except Exception as error:  # anything may be wrong with a module of somebody else
            name = entry.dist.name if entry.dist is not None else entry.name
            warn(f"package {name} brings {kind}, and {entry.value} cannot be imported ({reason_of(error)}); update it.")
