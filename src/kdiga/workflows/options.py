"""Options of commands: each is declared once, as metadata of a field of a request, from which the command line is made.

A request is a frozen dataclass of plain data. Nothing here imports PyTorch, so that ``kdiga COMMAND --help`` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

Names = Sequence[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Option:
    """One option of a command, or one argument.

    The type and the default are those of the field. A field of type bool is a switch, one of type ``Sequence`` takes
    several values.
    """

    help: str  # text for ``--help``
    flags: tuple[str, ...] = ()  # spellings on the command line. Default: the name of the field
    metavar: str | None = None  # placeholder for the value in ``--help``. Default: the type
    least: float | None = None  # smallest number that is accepted
    names: Names | None = None  # values that the shell offers on TAB, or a function that returns them
    # Function from the text on the command line to the value. Default: by the type.
    read: Callable[[str], Any] | None = None
    argument: bool = False  # whether the value stands on the command line without a flag
    hidden: bool = False  # whether ``--help`` leaves it out


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the words of a comma-separated list.

    >>> comma_separated("clean, pgd-20")
    ('clean', 'pgd-20')
    """
    return tuple(word.strip() for word in text.split(","))


def comma_separated_or_none(text: str) -> tuple[str, ...]:
    """Return the words of a comma-separated list; () for "none" and for an empty text."""
    return () if text.strip() in ("", "none") else comma_separated(text)


def names_from(module: str, function: str) -> Names:
    """Return a function that lists names; its module is imported once the shell asks for them.

    Where none fits what is typed, the shell offers files and folders.
    """
    return lambda: getattr(import_module(module), function)()


METHODS = names_from("kdiga.methods", "available_methods")
MODELS = names_from("kdiga.models", "available_models")
DATA_SETS = names_from("kdiga.data", "available_data")
RECIPES = names_from("kdiga.recipes.shipped", "shipped")


def recipe_keys() -> Iterable[str]:
    """Return the keys of a recipe's sections, with the "=" before a value."""
    from kdiga.recipes.schema import Recipe

    for section, kind in get_type_hints(Recipe).items():
        for one in filter(is_dataclass, (kind, *get_args(kind))):
            yield from (f"{section}.{field.name}=" for field in fields(one))


# Fields that several requests share.
ModelName = Annotated[
    str,
    Option(
        "A run folder, a .safetensors file, zoo:NAME, or an architecture with --weights.",
        names=MODELS,
        argument=True,
    ),
]
RecipeName = Annotated[
    Path, Option("A recipe: a YAML file, or a name that kdiga recipes lists.", names=RECIPES, argument=True)
]
Settings = Annotated[
    Sequence[str],
    Option("Override a key: training.seed=1.", flags=("--set",), metavar="KEY=VALUE", names=recipe_keys),
]
DryRun = Annotated[bool, Option("Check everything, show what would run, and stop.")]
