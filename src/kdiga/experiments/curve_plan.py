"""A recipe at several values of one coefficient, each from the same pre-trained student: what is to be run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdiga.errors import InputError
from kdiga.experiments.board import RunSpec
from kdiga.experiments.settings import EvaluateSettings
from kdiga.recipes.load import load_recipe
from kdiga.recipes.schema import Recipe
from kdiga.types import parse_number

START = "start"  # folder of the untouched student's cells
FORM = "write it as method.KEY=VALUE,VALUE,..., for example method.gradient_weight=0,0.3,1,3"


@dataclass(frozen=True)
class Confirmation:
    """A costly attack on the start and the chosen point alone.

    Args:
        attack: its name.
        examples: the first so many test images.

    Raises:
        InputError: for an unknown attack, or no example.
    """

    attack: str = "autoattack"
    examples: int = 200

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> EvaluateSettings:
        """Return how the attack is made."""
        return EvaluateSettings((self.attack,), self.examples, self.examples, ("best",))


@dataclass(frozen=True)
class CurvePlan:
    """A curve of robust against clean accuracy, checked.

    Args:
        title: for its table and picture.
        command: that runs it again.
        out: folder for everything.
        key: the coefficient that varies, without "method.".
        values: of it, rising.
        seeds: of every value.
        recipe: that varies.
        evaluation: how every run and the start are attacked.
        at_most: the most percentage points of validation clean accuracy that the answer may lose.
        confirmation: a costly attack for two points, or None.
        run_specs: the starts, then every run.
    """

    title: str
    command: str
    out: Path
    key: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    evaluation: EvaluateSettings
    at_most: float
    confirmation: Confirmation | None
    run_specs: tuple[RunSpec, ...]

    def folder_of(self, value: float | None, seed: int) -> str:
        """Return the folder of a value's run below the sweep's; of the start for None."""
        return folder_of(self.key, value, seed)


def folder_of(key: str, value: float | None, seed: int) -> str:
    """Return the folder of a value's run below the sweep's; of the start for None."""
    return f"{START if value is None else f'{key}-{value:g}'}/seed-{seed}"


def load_curve(
    path: str | Path,
    over: str,
    *,
    seeds: Sequence[int] = (),
    out: Path | None = None,
    overrides: Sequence[str] = (),
    evaluation: EvaluateSettings | None = None,
    at_most: float = 1.0,
    confirmation: Confirmation | None = None,
    command: str = "kdiga curve",
) -> CurvePlan:
    """Read a recipe and lay out its runs at several values of a coefficient.

    Args:
        path: of a YAML recipe whose student is pre-trained.
        over: the coefficient and its values, such as "method.gradient_weight=0,0.3,1,3".
        seeds: of every value; the recipe's own where there are none.
        out: folder for everything; None for ``runs/<file's stem>``.
        overrides: such as ``training.epochs=2``.
        evaluation: how every run and the start are attacked.
        at_most: the most percentage points of validation clean accuracy that the answer may lose, at least 0.
        confirmation: a costly attack for the start and the chosen point.
        command: for the files.

    Raises:
        InputError: with every problem of the recipe; for a student without pre-trained weights, values that are no
            numbers or stand twice, or a key that is not the method's.
    """
    key, values = parse_over(over)
    recipes = {value: load_recipe(path, [*overrides, f"method.{key}={value:g}"]) for value in values}
    recipe = recipes[values[0]]
    if recipe.student.is_fresh:
        raise InputError(
            f"{str(path)!r} trains {recipe.student.name} from fresh weights; a curve starts from a pre-trained "
            "student. Give student.weights, student.pretrained, the folder of a run, or a checkpoint."
        )
    if recipe.rounds is not None:
        raise InputError(f"{str(path)!r} has rounds, whose students start from each other; leave them out of a curve.")
    if not 0 <= at_most <= 100:
        raise InputError(f"--at-most was {at_most:g}; it is in percentage points, from 0 to 100.")
    chosen = tuple(seeds) or (recipe.training.seed,)
    if len(set(chosen)) < len(chosen) or min(chosen) < 0:
        raise InputError(f"seeds were {', '.join(map(str, chosen))}; give each once, from 0.")
    evaluation = evaluation or EvaluateSettings(("clean", "pgd-20"), which=("best",))
    layout: list[float | None] = [None, *values]
    run_specs = tuple(
        RunSpec(
            folder_of(key, value, seed),
            START if value is None else f"{value:g}",
            "start" if value is None else "method",
            _with_seed(recipe if value is None else recipes[value], seed),
            which=evaluation.which,
            validated=True,
        )
        for seed in chosen
        for value in layout
    )
    return CurvePlan(
        Path(path).stem,
        command,
        out or Path("runs") / Path(path).stem,
        key,
        values,
        chosen,
        recipe,
        evaluation,
        at_most,
        confirmation,
        run_specs,
    )


def parse_over(text: str) -> tuple[str, tuple[float, ...]]:
    """Return the name of a coefficient and its values, rising, of a text such as ``method.gradient_weight=0,1``.

    Raises:
        InputError: for another form, values that are no finite numbers, or one twice.
    """
    name, _, given = text.partition("=")
    section, _, key = name.strip().partition(".")
    if section != "method" or not key.isidentifier() or not given.strip():
        raise InputError(f"--over was {text!r}; {FORM}.")
    values = [parse_number(part) for part in given.split(",")]
    if not all(map(math.isfinite, values)) or len({f"{value:g}" for value in values}) < len(values):
        raise InputError(f"--over was {text!r}; give finite numbers, each once.")
    return key, tuple(sorted(float(f"{value:g}") for value in values))


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, training=replace(recipe.training, seed=seed))
