"""``kdiga study FILE``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_names
from kdiga.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from kdiga.experiments.study import Study


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(help="A study, by path or name; see docs/study.md.", autocompletion=recipe_names)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for everything. Default: runs/<file name>.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated, in place of the file's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override: base.training.epochs=2.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, list the cells, stop.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Only rewrite the tables from what is there.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Compare methods fairly: the same teacher, student, data and attacks, several seeds, one table.

    The same command goes on where an earlier one stopped, and in a second terminal helps the first.

    Example: kdiga study recipes/study-digits.yaml --out runs/comparison
    """
    from kdiga.cli.run_progress import RunProgress, announce, planned
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.engine import open_board, report_study, run_study
    from kdiga.experiments.failures import check_none_failed
    from kdiga.experiments.study import load_study
    from kdiga.experiments.study_results import describe_outcome
    from kdiga.experiments.workers import default_workers
    from kdiga.workflows.train import load_recipe_data

    check_started_once("a study", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    console = output.console
    overrides = [*(settings or []), *([] if seeds is None else [f"seeds=[{seeds}]"])]
    checked = load_study(file, out, overrides)
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    board = open_board(checked, data, since=0.0 if report else started)
    if dry_run:
        states = [board.state(run_spec) for run_spec in board.run_specs]
        _list(console, checked, states)
        output.result(planned(checked.run_specs, states, checked.out))
        return
    if report:
        content = report_study(checked, board, data)
    else:
        announce(console, f"kdiga study {file}", "cells", board, checked.out)
        with RunProgress(console, file.stem, outcome=lambda folder: describe_outcome(board, folder)) as progress:
            content = run_study(checked, board, data, workers=workers or default_workers(), on_watch=progress)
    _show(console, content, checked.out)
    output.result(content, checked.out)
    if not report:
        check_none_failed(board.folders("failed"), "cell", checked.out)


def _list(console: Console, checked: Study, states: list[str]) -> None:
    from kdiga.cli.printing import print_table

    table = Table()
    for heading in ("cell", "method", "epochs", "seed", "learns from", "state"):
        table.add_column(heading)
    for run_spec, state in zip(checked.run_specs, states, strict=True):
        training = run_spec.recipe.training
        teacher = "" if run_spec.recipe.teacher is None else run_spec.recipe.teacher.name
        table.add_row(
            run_spec.folder,
            run_spec.recipe.method.info.name,
            str(training.epochs),
            str(training.seed),
            ", ".join(run_spec.needs) or teacher,
            state,
        )
    print_table(console, table)
    console.print(f"# would write to {checked.out}", highlight=False, soft_wrap=True)


def _show(console: Console, content: dict[str, Any], out: Path) -> None:
    from kdiga.cli.printing import print_table
    from kdiga.report.study import about, headings, table_rows
    from kdiga.results.studies import StudyResult

    study = StudyResult.model_validate(content)
    table = Table()
    for heading in headings(study):
        first = heading == "method"
        table.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for row in table_rows(study):
        table.add_row(*row.texts())
    print_table(console, table)
    for line in filter(None, about(study)):
        console.print(line.replace("`", ""), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"Tables and pictures: {out}/table.md, cells.csv, scatter.png, study.json", highlight=False, soft_wrap=True
    )
