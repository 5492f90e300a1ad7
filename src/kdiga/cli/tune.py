"""``kdiga tune RECIPE``."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_keys, recipe_names
from kdiga.cli.output import Json, Output, Quiet


@app.command()
def tune(
    recipe: Annotated[
        Path,
        typer.Argument(help="A recipe: a YAML file, or a name that kdiga recipes lists.", autocompletion=recipe_names),
    ],
    trials: Annotated[int, typer.Option(min=1, help="Runs; the first has the recipe's own coefficients.")] = 8,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each. Default: the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for everything. Default: runs/<recipe name>-tune.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one a core; on a cluster, all that are ready.")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="local, dask, dask:ADDRESS or slurm:partition=gpu,time=60.")
    ] = "local",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: training.seed=1.", autocompletion=recipe_keys),
    ] = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Choose a method's coefficients by a few short runs, on validation images alone.

    The same command goes on where an earlier one stopped, and in a second terminal helps the first.

    Example: kdiga tune recipes/digits-kdiga.yaml --trials 6 --epochs 10
    """
    from kdiga.cli.run_progress import RunChoice, run_experiment, say, show_table
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.settings import TuneSettings
    from kdiga.experiments.tune import plan_search
    from kdiga.methods import search_space
    from kdiga.recipes.load import load_recipe

    check_started_once("tuning", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    checked = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / f"{recipe.stem}-tune"
    if not search_space(checked.method):
        say(output.console, f"method {checked.method.info.name} has no coefficients to tune; nothing was run.")
        output.result({"kind": "tune", "trials": [], "chosen": None})
        return
    asked = ["kdiga", "tune", str(recipe), "--trials", str(trials), "--out", str(folder)]
    asked += [] if epochs is None else ["--epochs", str(epochs)]
    asked += [part for setting in settings or [] for part in ("--set", setting)]
    search = plan_search(checked, folder, TuneSettings(trials, epochs), shlex.join(asked))
    made = run_experiment(search, RunChoice(workers, executor), output, f"kdiga tune {recipe}", started=started)
    assert made is not None  # it is not a dry run
    content, failed = made
    found: list[dict[str, Any]] = content["trials"]
    headings = ("trial", *found[0]["coefficients"], "PGD, best", "clean, best", "PGD, last", "minutes", "")
    show_table(output.console, headings, [_row(trial, content["chosen"]) for trial in found], "trial")
    about = f"Validation images, {content['epochs']} epochs, seed {content['seed']}; the test images took no part."
    say(output.console, about)
    if content["chosen"] is not None:
        say(output.console, f"Next: kdiga train {folder}/best.yaml --out {folder}-best")
    output.result(content, folder)
    search.check_none_failed(failed)


def _row(trial: dict[str, Any], chosen: str | None) -> tuple[str, ...]:
    values = (f"{value:g}" for value in trial["coefficients"].values())
    last = "chosen" if trial["folder"] == chosen else "" if trial["best"] else trial["status"]
    return (trial["folder"], *values, *_scores(trial), last)


def _scores(trial: dict[str, Any]) -> tuple[str, str, str, str]:
    if trial["best"] is None:
        return "-", "-", "-", "-"
    best, last = trial["best"], trial["last"]
    return f"{best['robust']:.1%}", f"{best['clean']:.1%}", f"{last['robust']:.1%}", f"{trial['minutes']:.2f}"
