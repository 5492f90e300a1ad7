"""``kdiga tune RECIPE``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.statistics import percent
from kdiga.workflows.options import Option, RecipeName, Settings
from kdiga.workflows.requests import RunsRequest


@dataclass(frozen=True, kw_only=True)
class TuneRequest(RunsRequest):
    """A search for the coefficients of a recipe's method."""

    recipe: RecipeName
    trials: Annotated[int, Option("Number of runs; the first has the recipe's own coefficients.", least=1)] = 8
    epochs: Annotated[int | None, Option("Number of epochs of each run. Default: the recipe's.", least=1)] = None
    settings: Settings = ()
    out: Annotated[Path | None, Option("Folder of all files. Default: runs/<recipe name>-tune.")] = None


@command()
def tune(request: TuneRequest, output: Output) -> None:
    """Choose a method's coefficients on validation images.

    It trains a few short runs and reads no test image. The same command continues where an earlier one stopped, and
    shares the work of one in a second terminal.

    Example: kdiga tune recipes/digits-kdiga.yaml --trials 6 --epochs 10
    """
    from kdiga.cli.run_progress import run_experiment
    from kdiga.experiments.sections import TuneSettings
    from kdiga.experiments.tune import plan_search
    from kdiga.methods import search_space
    from kdiga.recipes.validate import load_recipe
    from kdiga.results.shared import command_of

    recipe = request.recipe
    checked = load_recipe(recipe, request.settings)
    folder = request.out or Path("runs") / f"{recipe.stem}-tune"
    if not search_space(checked.method):
        say(output.console, f"method {checked.method.info.name} has no coefficients to tune; nothing was run.")
        output.result({"kind": "tune", "trials": [], "chosen": None})
        return
    trials, epochs = request.trials, request.epochs
    asked = command_of("tune", recipe, trials=trials, out=folder, epochs=epochs, set=list(request.settings))
    search = plan_search(checked, folder, TuneSettings(trials, epochs), asked)
    run_experiment(search, request, output, partial(_show, folder=folder))


def _show(output: Output, content: dict[str, Any], folder: Path) -> Path:
    found: list[dict[str, Any]] = content["trials"]
    headings = ("trial", *found[0]["coefficients"], "PGD, best", "clean, best", "PGD, last", "minutes", "")
    show_table(output.console, headings, (_row(trial, content["chosen"]) for trial in found))
    about = f"Validation images, {content['epochs']} epochs, seed {content['seed']}; the test images took no part."
    say(output.console, about)
    if content["chosen"] is not None:
        say(output.console, f"Next: kdiga train {folder}/best.yaml --out {folder}-best")
    return folder


def _row(trial: dict[str, Any], chosen: str | None) -> tuple[str, ...]:
    start = (trial["folder"], *(f"{value:g}" for value in trial["coefficients"].values()))
    best, last = trial["best"], trial["last"]
    if best is None:
        return (*start, "-", "-", "-", "-", "chosen" if trial["folder"] == chosen else trial["status"])
    scores = percent(best["robust"]), percent(best["clean"]), percent(last["robust"]), f"{trial['minutes']:.2f}"
    return (*start, *scores, "chosen" if trial["folder"] == chosen else "")
