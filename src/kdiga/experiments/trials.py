"""A small search for a method's coefficients: the same few points whoever asks, each a run of its own.

Points come from a scrambled Halton sequence, which unlike Sobol's is even for any number of points.
Point i depends on nothing but i and the number of coefficients, so trials can run in any order, in
several processes, and again. The score is robust accuracy on validation images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import qmc

from kdiga.errors import InputError
from kdiga.experiments.board import FAILURE, VALIDATION, RunSpec, read_json
from kdiga.methods import Method, SearchRange, search_space
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import RESULT

SEED = 0  # of the sequence's scrambling


@dataclass(frozen=True)
class Trial:
    """What a trial came to.

    Args:
        folder: of its run, below the search's.
        coefficients: by name.
        status: "done", "diverged", "failed" or "open".
        best: validation accuracy of the best epoch, "clean" and "robust", in [0, 1]; None without a result.
        last: the same of the last epoch.
        minutes: of training.
        error: why there is no result.
    """

    folder: str
    coefficients: dict[str, float]
    status: str
    best: dict[str, float] | None = None
    last: dict[str, float] | None = None
    minutes: float | None = None
    error: str | None = None

    @property
    def score(self) -> float:
        """Robust accuracy on validation images; -1 without a result."""
        return -1.0 if self.best is None else self.best["robust"]


def trial_specs(
    recipe: Recipe, where: str, *, label: str, trials: int, epochs: int | None, needs: tuple[str, ...] = ()
) -> list[RunSpec]:
    """Return the runs of a search; none for a method without coefficients.

    Args:
        recipe: whose method is to be tuned.
        where: folder of the search below the study's; "" for the study's own.
        label: what is tuned.
        trials: how many; the first has the recipe's own coefficients.
        epochs: of each; None for the recipe's.
        needs: folders of the teachers that they learn from.
    """
    if not search_space(recipe.method):
        return []
    settings = recipe.training if epochs is None else replace(recipe.training, epochs=epochs)
    return [
        RunSpec(
            f"{where}/trial-{number:02d}".lstrip("/"),
            label,
            "trial",
            replace(recipe, method=trial_method(recipe.method, number), training=settings),
            needs,
        )
        for number in range(trials)
    ]


def trial_method(method: Method, number: int) -> Method:
    """Return a method with the coefficients of a trial; trial 0 is the method as it is."""
    space = search_space(method)
    if number == 0 or not space:
        return method
    shares = qmc.Halton(len(space), scramble=True, rng=SEED).random(number)[number - 1]
    values = {
        name: _value(search, float(share), getattr(method, name))
        for (name, search), share in zip(space.items(), shares, strict=True)
    }
    return replace(method, **values)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownVariableType, reportGeneralTypeIssues]


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
    """Return what the trials have come to so far."""
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
        trials: that have ended.
        least_clean: validation clean accuracy that it has to keep, in [0, 1]; where none does, the trial that keeps
            most is returned. None asks for nothing.
    """
    if least_clean is None:
        return max(trials, key=lambda trial: trial.score)
    kept = [trial for trial in trials if trial.best is not None and trial.best["clean"] >= least_clean]
    return best_trial(kept) if kept else max(trials, key=lambda trial: trial.best["clean"] if trial.best else -1.0)


def least_clean(run_spec: RunSpec, out: Path) -> float | None:
    """Return the validation clean accuracy that a cell's trials have to keep; None if they need not keep any."""
    if run_spec.floor is None:
        return None
    start = read_json(out / run_spec.floor.start / VALIDATION)
    if start is None:
        raise InputError(f"{run_spec.floor.start} in {str(out)!r} has not been judged on validation images.")
    return start["accuracy"]["clean"] - run_spec.floor.at_most / 100


def chosen_recipe(run_spec: RunSpec, trials: Sequence[RunSpec], out: Path) -> Recipe:
    """Return a cell's recipe with the coefficients of its best trial.

    Args:
        run_spec: with or without trials.
        trials: its trial cells, all of which have ended.
        out: the study's folder.
    """
    if not trials:
        return run_spec.recipe
    best = best_trial(read_trials(trials, out), least_clean(run_spec, out))
    values: dict[str, Any] = dict(best.coefficients)
    return replace(run_spec.recipe, method=replace(run_spec.recipe.method, **values))  # pyright: ignore
