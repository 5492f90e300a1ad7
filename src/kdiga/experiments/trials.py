"""A small search for a method's coefficients: the same few points for everyone, each a run.

Points come from a scrambled Halton sequence, which unlike Sobol's is even for any number of points.
Point i depends on nothing but i and the number of coefficients, so trials can run in any order, in
several processes, and again. The score is robust accuracy on validation images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdiga.errors import InputError
from kdiga.experiments.board import VALIDATION, RunSpec, read_json
from kdiga.experiments.sections import TuneSettings
from kdiga.methods import Method, SearchRange, search_space, with_options
from kdiga.recipes.schema import Recipe
from kdiga.runs.run_folder import FAILURE, RESULT
from kdiga.statistics import at_most

SEED = 0  # of the sequence's scrambling


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial."""

    folder: str  # folder of its run, below the search's
    coefficients: dict[str, float]  # coefficients by name
    status: str  # "done", "diverged", "failed" or "open"
    # Validation accuracy of the best epoch, "clean" and "robust", in [0, 1]; None without a result.
    best: dict[str, float] | None = None
    last: dict[str, float] | None = None  # the same of the last epoch
    minutes: float | None = None  # minutes of training
    error: str | None = None  # reason for having no result

    @property
    def score(self) -> float:
        """Robust accuracy on validation images; -1 without a result."""
        return -1.0 if self.best is None else self.best["robust"]


def trial_specs(
    recipe: Recipe, where: str, budget: TuneSettings, *, label: str, needs: tuple[str, ...] = ()
) -> list[RunSpec]:
    """Return the runs of a search in the folder ``where``; none for a method without coefficients.

    The first trial has the recipe's own coefficients.
    """
    if not search_space(recipe.method):
        return []
    settings = recipe.training if budget.epochs is None else replace(recipe.training, epochs=budget.epochs)
    return [
        RunSpec(
            f"{where}/trial-{number:02d}".lstrip("/"),
            label,
            "trial",
            replace(recipe, method=trial_method(recipe.method, number), training=settings),
            needs,
        )
        for number in range(budget.trials)
    ]


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return a recipe with another seed."""
    return replace(recipe, training=replace(recipe.training, seed=seed))


def trial_method(method: Method, number: int) -> Method:
    """Return a method with the coefficients of a trial; trial 0 is the method as it is."""
    space = search_space(method)
    if number == 0 or not space:
        return method
    from scipy.stats import qmc  # here, because scipy.stats loads slowly

    shares = qmc.Halton(len(space), scramble=True, rng=SEED).random(number)[number - 1]
    values = {
        name: _value(search, float(share), getattr(method, name))
        for (name, search), share in zip(space.items(), shares, strict=True)
    }
    return with_options(method, values)


def _value(search: SearchRange, share: float, configured: object) -> float:
    low, high = search.low, search.high
    value = low * (high / low) ** share if search.log else low + (high - low) * share
    # Three digits: what a person would write down, and far finer than the noise of a trial.
    rounded = min(max(float(f"{value:.3g}"), low), high)
    return round(rounded) if isinstance(configured, int) else rounded


def coefficients(method: Method) -> dict[str, float]:
    """Return the coefficients of a method that can be tuned, by name."""
    return {name: getattr(method, name) for name in search_space(method)}


def read_trials(run_specs: Sequence[RunSpec], out: Path) -> list[Trial]:
    """Return the outcomes of the trials so far."""
    return [_read(run_spec, out / run_spec.folder) for run_spec in run_specs]


def _read(run_spec: RunSpec, folder: Path) -> Trial:
    values = coefficients(run_spec.recipe.method)
    result = read_json(folder / RESULT)
    if result is not None:
        best, last = (
            {key: result["validation"][which][key] for key in ("clean", "robust")} for which in ("best", "last")
        )
        return Trial(run_spec.folder, values, "done", best, last, result["minutes"])
    failure = read_json(folder / FAILURE)
    if failure is not None:
        return Trial(run_spec.folder, values, failure["status"], error=failure["error"])
    return Trial(run_spec.folder, values, "open")


def best_trial(trials: Sequence[Trial], least_clean: float | None = None) -> Trial:
    """Return the trial with the highest score, the first of equals; if all diverged, that is trial 0.

    Args:
        trials: Trials that have ended.
        least_clean: Validation clean accuracy that it must have, in [0, 1]; where none has, the trial with the highest
            is returned. None for no condition.
    """
    if least_clean is None:
        return max(trials, key=lambda trial: trial.score)
    enough = [trial for trial in trials if trial.best is not None and at_most(least_clean - trial.best["clean"], 0)]
    return best_trial(enough) if enough else max(trials, key=lambda trial: trial.best["clean"] if trial.best else -1.0)


def least_clean(run_spec: RunSpec, out: Path) -> float | None:
    """Return the validation clean accuracy that a run's trials must have; None for no condition."""
    if run_spec.floor is None:
        return None
    start = read_json(out / run_spec.floor.start / VALIDATION)
    if start is None:
        raise InputError(f"{run_spec.floor.start} in {str(out)!r} has not been attacked on validation images.")
    return start["accuracy"]["clean"] - run_spec.floor.at_most / 100


def chosen_recipe(run_spec: RunSpec, trials: Sequence[RunSpec], out: Path) -> Recipe:
    """Return a run's recipe with the coefficients of its best trial, all of which have ended."""
    if not trials:
        return run_spec.recipe
    return with_coefficients(run_spec.recipe, best_trial(read_trials(trials, out), least_clean(run_spec, out)))


def with_coefficients(recipe: Recipe, trial: Trial) -> Recipe:
    """Return a recipe with a trial's coefficients."""
    return replace(recipe, method=with_options(recipe.method, trial.coefficients))
