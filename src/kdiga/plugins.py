"""Models, data sets and methods of other installed packages, found by their entry points.

A package names a module in the group ``kdiga.models``, ``kdiga.data`` or ``kdiga.methods``. The module registers what
it brings, as the modules of this package do.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from kdiga.errors import reason_of, warn


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
