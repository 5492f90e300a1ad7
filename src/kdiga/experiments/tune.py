"""The coefficients of one recipe's method, chosen by a few trials: ``kdiga tune``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.experiments.board import ENDED, RunBoard, RunSpec
from kdiga.experiments.check import check_folder, check_models
from kdiga.experiments.engine import OnWatch, run_board
from kdiga.experiments.settings import EvaluateSettings, TuneSettings
from kdiga.experiments.trials import best_trial, chosen_recipe, read_trials, trial_specs
from kdiga.io.atomic_write import write_atomically
from kdiga.io.file_lock import file_lock
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import write_result
from kdiga.runs.provenance import provenance

FILE, BEST = "tune.json", "best.yaml"


def open_search(recipe: Recipe, out: Path, budget: TuneSettings, data: DataSet, *, since: float = 0.0) -> RunBoard:
    """Return the board of a recipe's trials, checked against the models and the folder.

    Args:
        recipe: whose method is to be tuned.
        out: folder for everything.
        budget: how many trials, how long.
        data: of the recipe.
        since: see :class:`kdiga.experiments.board.RunBoard`.

    Raises:
        InputError: if a method has no coefficients, a model does not fit, or the folder holds other trials.
    """
    name = recipe.method.info.name
    run_specs = trial_specs(recipe, "", label=name, trials=budget.trials, epochs=budget.epochs)
    if not run_specs:
        raise InputError(f"method {name} has no coefficients to tune; train the recipe as it is.")
    check_models(run_specs, out, data)
    board = RunBoard(run_specs, out, since)
    check_folder(board, EvaluateSettings(), data)
    return board


def run_search(
    recipe: Recipe, board: RunBoard, data: DataSet, *, workers: int, on_watch: OnWatch, command: str = "kdiga tune"
) -> dict[str, Any]:
    """Run the trials that are not finished and return ``tune.json``'s content.

    Writes ``tune.json`` after each trial, and ``best.yaml``, the recipe with the chosen coefficients, once
    all have ended and one of them well.

    Args:
        recipe: whose method is to be tuned.
        board: of its trials.
        data: of the recipe.
        workers: processes.
        on_watch: told how far it is.
        command: for ``tune.json``.

    Raises:
        WorkersEndedError: if all worker processes were killed.
    """

    def on_end() -> None:
        _write(recipe, board, command)

    run_board(board, data, EvaluateSettings(), workers=workers, on_watch=on_watch, on_end=on_end)
    return _write(recipe, board, command)


def _write(recipe: Recipe, board: RunBoard, command: str) -> dict[str, Any]:
    with file_lock(board.out, "report", wait=True):
        trials = read_trials(board.run_specs, board.out)
        best = best_trial(trials)
        settled = best.best is not None and all(board.state(run_spec) in ENDED for run_spec in board.run_specs)
        content = {
            "command": command,
            "method": recipe.method.info.name,
            "data": asdict(recipe.data),
            "threat": asdict(recipe.threat),
            "seed": recipe.training.seed,
            "epochs": board.run_specs[0].recipe.training.epochs,
            "trials": [asdict(trial) for trial in trials],
            "chosen": best.folder if settled else None,
            "provenance": provenance(),
        }
        write_result(board.out, content, FILE)
        if settled:
            _write_best(recipe, board.run_specs, board.out, best.folder)
    return content


def _write_best(recipe: Recipe, trials: Sequence[RunSpec], out: Path, folder: str) -> None:
    chosen = chosen_recipe(RunSpec("", "", "method", recipe), trials, out)
    head = f"# The best of {len(trials)} trials on validation images was {folder}; see {FILE}.\n"
    write_atomically(out / BEST, head + yaml.safe_dump(chosen.to_dict(), sort_keys=False))
