"""``kdiga curve RECIPE``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app, command_line
from kdiga.cli.completion import recipe_keys, recipe_names
from kdiga.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from kdiga.experiments.curve_plan import Confirmation, CurvePlan


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
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
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
    from kdiga.cli.run_progress import RunProgress, announce, planned
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.curve import open_curve, report_curve, run_curve
    from kdiga.experiments.curve_plan import load_curve
    from kdiga.experiments.failures import check_none_failed
    from kdiga.experiments.settings import EvaluateSettings
    from kdiga.experiments.study_results import describe_outcome
    from kdiga.experiments.workers import default_workers
    from kdiga.workflows.train import load_recipe_data

    check_started_once("a curve", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    console = output.console
    sweep = load_curve(
        recipe,
        over,
        seeds=_seeds(seeds),
        out=out,
        overrides=settings or [],
        at_most=at_most,
        evaluation=EvaluateSettings(_attacks(attacks), examples, which=("best",)),
        confirmation=_confirmation(confirm, confirm_examples),
        command=command_line(),
    )
    data = load_recipe_data(sweep.recipe.data)
    board = open_curve(sweep, data, since=0.0 if report else started)
    if dry_run:
        states = [board.state(run_spec) for run_spec in board.run_specs]
        _list(console, sweep, states)
        output.result(planned(sweep.run_specs, states, sweep.out))
        return
    if report:
        content = report_curve(sweep, board, data)
    else:
        announce(console, f"kdiga curve {recipe}", "runs", board, sweep.out)
        with RunProgress(console, recipe.stem, outcome=lambda folder: describe_outcome(board, folder)) as progress:
            content = run_curve(sweep, board, data, workers=workers or default_workers(), on_watch=progress)
    _show(console, content, sweep.out)
    output.result(content, sweep.out)
    if not report:
        check_none_failed(board.folders("failed"), "run", sweep.out)


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
    from kdiga.experiments.curve_plan import Confirmation

    return None if attack.strip().lower() == "none" else Confirmation(attack.strip().lower(), examples)


def _list(console: Console, sweep: CurvePlan, states: list[str]) -> None:
    from kdiga.cli.printing import print_table

    table = Table()
    for heading in ("run", "method", "epochs", "seed", "state"):
        table.add_column(heading)
    for run_spec, state in zip(sweep.run_specs, states, strict=True):
        start, training = run_spec.kind == "start", run_spec.recipe.training
        name, epochs = ("none", 0) if start else (run_spec.recipe.method.info.name, training.epochs)
        table.add_row(run_spec.folder, name, str(epochs), str(training.seed), state)
    print_table(console, table)
    console.print(f"# would write to {sweep.out}", highlight=False, soft_wrap=True)


def _show(console: Console, content: dict[str, Any], out: Path) -> None:
    from kdiga.cli.printing import print_table, say
    from kdiga.report.curve import about, answer_lines, headings, table_rows
    from kdiga.results.studies import CurveResult

    curve = CurveResult.model_validate(content)
    table = Table()
    for heading in headings(curve):
        first = heading == curve.key
        table.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for row in table_rows(curve):
        table.add_row(*row)
    print_table(console, table)
    for line in filter(None, [*about(curve), *answer_lines(curve)]):
        say(console, line.replace("`", ""))
    say(console, f"Tables and pictures: {out}/curve.md, curve.csv, curve.png, curve-dark.png, curve.json")
