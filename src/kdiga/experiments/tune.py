"""``kdiga tune``: the coefficients of one recipe's method, chosen by a few trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.experiments.board import RunBoard
from kdiga.experiments.experiment import Experiment, RunsFailedError
from kdiga.experiments.sections import EvaluateSettings, TuneSettings
from kdiga.experiments.trials import best_trial, read_trials, trial_specs, with_coefficients
from kdiga.io.atomic_write import write_atomically
from kdiga.recipes.schema import Recipe
from kdiga.runs.provenance import provenance
from kdiga.runs.run_folder import write_json

FILE, BEST = "tune.json", "best.yaml"


@dataclass(frozen=True)
class Search(Experiment):
    """The trials of one recipe's method."""

    noun: ClassVar[str] = "trial"

    recipe: Recipe

    def write(self, board: RunBoard, data: DataSet, *, pictures: bool) -> dict[str, Any]:
        """Write ``tune.json``, and ``best.yaml`` once all trials have ended and one of them well."""
        trials = read_trials(board.run_specs, board.out)
        best = best_trial(trials)
        settled = best.best is not None and board.all_ended
        content = {
            "command": self.command,
            "method": self.recipe.method.info.name,
            "data": asdict(self.recipe.data),
            "threat": asdict(self.recipe.threat),
            "seed": self.recipe.training.seed,
            "epochs": board.run_specs[0].recipe.training.epochs,
            "trials": [asdict(trial) for trial in trials],
            "chosen": best.folder if settled else None,
            "provenance": provenance(),
        }
        write_json(board.out / FILE, content)
        if settled:
            head = f"# The best of {len(trials)} trials on validation images was {best.folder}; see {FILE}.\n"
            chosen = with_coefficients(self.recipe, best).to_dict()
            write_atomically(board.out / BEST, head + yaml.safe_dump(chosen, sort_keys=False))
        return content

    def check_none_failed(self, failed: Sequence[str]) -> None:
        """Raise a RunsFailedError that names failed trials, or says that all diverged."""
        super().check_none_failed(failed)
        if not (self.out / BEST).is_file():
            raise RunsFailedError(
                f"all {len(self.run_specs)} trials diverged; lower training.lr, set training.grad_clip to 1, or train "
                "longer."
            )


def plan_search(recipe: Recipe, out: Path, budget: TuneSettings, command: str = "kdiga tune") -> Search:
    """Return the search for a recipe's coefficients, which ``command`` continues."""
    name = recipe.method.info.name
    run_specs = trial_specs(recipe, "", budget, label=name)
    if not run_specs:
        raise InputError(f"method {name} has no coefficients to tune; train the recipe as it is.")
    return Search(name, command, out, EvaluateSettings(), tuple(run_specs), recipe)
