"""How a study measures its models, and how it chooses coefficients: the sections that are not a recipe's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from kdiga.errors import InputError, nearest, unknown
from kdiga.evaluation import attack_by_name
from kdiga.models.sources.local import WHICH
from kdiga.recipes.source import Keys, YamlSource

COSTLY = "autoattack"


@dataclass(frozen=True)
class EvaluateSettings:
    """How every finished model is attacked.

    Args:
        attacks: among "clean", "fgsm", "pgd-STEPS" and "autoattack".
        examples: the first so many test images; None for all.
        autoattack_examples: as many for AutoAttack, which costs far more; None for ``examples``.
        which: "best" (by validation), "last", or both.
        seed: of the attacks' random starts, the same for every model.

    Raises:
        InputError: for values out of range or unknown names.
    """

    attacks: tuple[str, ...] = ("clean", "pgd-20", COSTLY)
    examples: int | None = None
    autoattack_examples: int | None = None
    which: tuple[str, ...] = WHICH
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.attacks:
            attack_by_name(name)
        for name in ("examples", "autoattack_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} was {value}; it must be at least 1.")
        for name in ("attacks", "which"):
            if not getattr(self, name):
                raise InputError(f"{name} was empty; give at least one.")
        for which in self.which:
            if which not in WHICH:
                raise unknown("which", which, WHICH)
        object.__setattr__(self, "attacks", tuple(name.strip().lower() for name in self.attacks))

    def examples_of(self, attack: str, available: int) -> int:
        """Return how many of the ``available`` test images an attack looks at."""
        asked = self.autoattack_examples or self.examples if attack == COSTLY else self.examples
        return min(asked or available, available)


MOST_TRIALS = 1000


@dataclass(frozen=True)
class TuneSettings:
    """The budget that every method gets for choosing its coefficients.

    Args:
        trials: runs a method, the first with the coefficients as given.
        epochs: of each trial; None for the run's own.

    Raises:
        InputError: for values below 1, or more trials than anybody would run.
    """

    trials: int = 8
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} was {value}; it must be at least 1.")
        if self.trials > MOST_TRIALS:
            raise InputError(
                f"trials was {self.trials!s:.20}; at most {MOST_TRIALS:,} are drawn, a run of training each."
            )


T = TypeVar("T")


def read_section(source: YamlSource, name: str, kind: type[T], problems: list[str]) -> T | None:
    """Return a section as settings, or None and why not in ``problems``."""
    given = source.data.get(name)
    if given is None:
        return kind()
    if not isinstance(given, dict):
        problems.append(source.problem((name,), f"was {given!r}; it is a section of keys"))
        return None
    accepted = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    section = cast("Mapping[Any, Any]", given)
    check_keys(source, (name,), section, accepted, problems)
    try:
        return TypeAdapter(kind).validate_python({key: value for key, value in section.items() if key in accepted})
    except ValidationError as error:
        for problem in error.errors():
            keys: Keys = (name, *(str(part) for part in problem["loc"][:1]))
            value = "" if problem["type"] == "value_error" else f" (was {problem['input']!r})"
            problems.append(source.problem(keys, problem["msg"].removeprefix("Value error, ") + value))
    return None


def check_keys(
    source: YamlSource, above: Keys, given: Mapping[Any, Any], accepted: list[str], problems: list[str]
) -> None:
    """Note every key that is not accepted, with the nearest one that is."""
    for key in given:
        if key not in accepted:
            close = nearest(str(key), accepted, most=1)
            hint = f"did you mean {close[0]}?" if close else f"accepted: {', '.join(accepted)}"
            problems.append(source.problem((*above, str(key)), f"unknown key; {hint}"))
