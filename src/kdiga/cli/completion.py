"""What the shell offers on TAB. Names come from the registries, so a new method or model is offered unasked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints


def method_names(incomplete: str) -> list[str]:
    """Return the training methods that begin so."""
    from kdiga.methods import available_methods

    return _beginning(incomplete, available_methods())


def model_names(incomplete: str) -> list[str]:
    """Return the built-in architectures that begin so; where none does, the shell offers files and folders."""
    from kdiga.models import available_models

    return _beginning(incomplete, available_models())


def data_names(incomplete: str) -> list[str]:
    """Return the data sets that begin so."""
    from kdiga.data import available_data

    return _beginning(incomplete, available_data())


def recipe_names(incomplete: str) -> list[str]:
    """Return the recipes that come with kdiga and begin so; where none does, the shell offers files."""
    from kdiga.recipes.shipped import shipped

    return _beginning(incomplete, shipped())


def recipe_keys(incomplete: str) -> list[str]:
    """Return the keys of a recipe's sections that begin so, with the "=" that a value follows."""
    from kdiga.recipes.schema import Recipe

    keys = list[str]()
    for section, kind in get_type_hints(Recipe).items():
        classes = [one for one in (kind, *get_args(kind)) if is_dataclass(one)]
        keys += [f"{section}.{field.name}=" for one in classes for field in fields(one)]
    return _beginning(incomplete, keys)


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Return what offers one of ``names``."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, names)

    return complete


def several_of(*names: str) -> Callable[[str], list[str]]:
    """Return what offers one more of ``names`` behind the last comma."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in _beginning(last, names) if name not in before.split(",")]

    return complete


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
