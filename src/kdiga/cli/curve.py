"""``kdiga curve RECIPE``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdiga.cli.app import app, command_line
from kdiga.cli.completion import recipe_keys, recipe_names
from kdiga.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from kdiga.experiments.curve import Confirmation


@app.command()
def curve(
    recipe: Annotated[
        Path,
        typer.Argument(help="A recipe, by path or name, whose student is pre-trained.", autocompletion=recipe_names),
    ],
    over: Annotated[str, typer.Option(help="Coefficient and values: method.gradient_weight=0,0.3,1,3.")],
    at_most: Annotated[float, typer.Option(help="Points of validation clean accuracy that may be lost.")] = 1.0,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated. Default: the recipe's.")] = None,
    attacks: Annotated[str, typer.Option(help="On the start and every run; beside clean.")] = "pgd-20",
    examples: Annotated[int | None, typer.Option(min=1, help="Test images of them. Default: all.")] = None,
    confirm: Annotated[str, typer.Option(help="Attack on start and chosen point alone, or none.")] = "autoattack",
    confirm_examples: Annotated[int, typer.Option(min=1, help="Test images of it.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Folder for everything. Default: runs/<recipe name>.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one a core; on a cluster, all that are ready.")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="local, dask, dask:ADDRESS or slurm:partition=gpu,time=60.")
    ] = "local",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key: training.epochs=2.", autocompletion=recipe_keys
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, list the runs, stop.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Only rewrite the files from what is there.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Find how much robustness a pre-trained student gains, and what it costs in clean accuracy, over a weight.

    The most robust point on validation images that loses at most --at-most points of clean accuracy there is compared
    with the start on test images. The same command goes on where an earlier one stopped.

    Example: kdiga curve recipes/curve-resnet20.yaml --over method.gap_weight=0,1,3 --examples 1000
    """
    from kdiga.cli.run_progress import RunChoice, run_experiment, say, show_table
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.curve import load_curve
    from kdiga.experiments.settings import EvaluateSettings
    from kdiga.report.curve import about, answer_lines, headings, table_rows
    from kdiga.results.studies import CurveResult

    check_started_once("a curve", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    checked = load_curve(
        recipe,
        over,
        seeds=_seeds(seeds),
        out=out,
        overrides=settings or [],
        at_most=at_most,
        evaluation=EvaluateSettings(_attacks(attacks), examples, which=("best",)),
        confirmation=_confirmation(confirm, confirm_examples),
    )
    checked = replace(checked, command=command_line())
    choice = RunChoice(workers, executor, dry_run, report)
    made = run_experiment(checked, choice, output, f"kdiga curve {recipe}", started=started)
    if made is None:
        return
    content, failed = made
    found = CurveResult.model_validate(content)
    show_table(output.console, headings(found), table_rows(found), found.key)
    for line in filter(None, [*about(found), *answer_lines(found)]):
        say(output.console, line.replace("`", ""))
    files = "curve.md, curve.csv, curve.png, curve-dark.png, curve.json"
    say(output.console, f"Tables and pictures: {checked.out}/{files}")
    output.result(content, checked.out)
    checked.check_none_failed(failed)


def _attacks(given: str) -> tuple[str, ...]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    return tuple(dict.fromkeys(["clean", *names]))


def _seeds(given: str | None) -> tuple[int, ...]:
    from kdiga.errors import InputError

    if given is None:
        return ()
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError:
        raise InputError(f"--seeds was {given!r}; give whole numbers, comma-separated, such as 0,1,2.") from None


def _confirmation(attack: str, examples: int) -> Confirmation | None:
    from kdiga.experiments.curve import Confirmation

    return None if attack.strip().lower() == "none" else Confirmation(attack.strip().lower(), examples)
