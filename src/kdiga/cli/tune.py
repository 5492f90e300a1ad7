"""``kdiga tune RECIPE``."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
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
    from kdiga.cli.run_progress import RunProgress
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.settings import TuneSettings
    from kdiga.experiments.study_results import describe_outcome
    from kdiga.experiments.tune import open_search, run_search
    from kdiga.experiments.workers import default_workers
    from kdiga.methods import search_space
    from kdiga.recipes.load import load_recipe
    from kdiga.workflows.train import load_recipe_data

    check_started_once("tuning", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    console = output.console
    checked = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / f"{recipe.stem}-tune"
    if not search_space(checked.method):
        console.print(
            f"method {checked.method.info.name} has no coefficients to tune; nothing was run.", soft_wrap=True
        )
        output.result({"kind": "tune", "trials": [], "chosen": None})
        return
    data = load_recipe_data(checked.data)
    board = open_search(checked, folder, TuneSettings(trials, epochs), data, since=started)
    asked = ["kdiga", "tune", str(recipe), "--trials", str(trials), "--out", str(folder)]
    asked += [] if epochs is None else ["--epochs", str(epochs)]
    asked += [part for setting in settings or [] for part in ("--set", setting)]
    with RunProgress(console, recipe.stem, outcome=lambda name: describe_outcome(board, name)) as progress:
        content = run_search(
            checked,
            board,
            data,
            workers=workers or default_workers(),
            on_watch=progress,
            command=shlex.join(asked),
        )
    _show(console, content, folder)
    output.result(content, folder)
    _check(content, folder)


def _show(console: Console, content: dict[str, Any], out: Path) -> None:
    from kdiga.cli.printing import print_table

    trials: list[dict[str, Any]] = content["trials"]
    names = list(trials[0]["coefficients"])
    table = Table()
    for heading in ("trial", *names, "PGD, best", "clean, best", "PGD, last", "minutes", ""):
        table.add_column(heading, justify="left" if heading == "trial" else "right", no_wrap=heading == "trial")
    for trial in trials:
        table.add_row(
            trial["folder"],
            *(f"{value:g}" for value in trial["coefficients"].values()),
            *_scores(trial),
            "chosen" if trial["folder"] == content["chosen"] else "" if trial["best"] else trial["status"],
        )
    print_table(console, table)
    console.print(
        f"Validation images, {content['epochs']} epochs, seed {content['seed']}; the test images took no part.",
        highlight=False,
        soft_wrap=True,
    )
    if content["chosen"] is not None:
        console.print(f"Next: kdiga train {out}/best.yaml --out {out}-best", highlight=False, soft_wrap=True)


def _check(content: dict[str, Any], out: Path) -> None:
    from kdiga.experiments.failures import CellsFailedError, check_none_failed

    trials = content["trials"]
    failed = [trial["folder"] for trial in trials if trial["status"] == "failed"]
    check_none_failed(failed, "trial", out)
    if content["chosen"] is None:
        raise CellsFailedError(
            f"all {len(trials)} trials diverged; lower training.lr, set training.grad_clip to 1, or train longer."
        )


def _scores(trial: dict[str, Any]) -> tuple[str, str, str, str]:
    if trial["best"] is None:
        return "-", "-", "-", "-"
    best, last = trial["best"], trial["last"]
    return f"{best['robust']:.1%}", f"{best['clean']:.1%}", f"{last['robust']:.1%}", f"{trial['minutes']:.2f}"
