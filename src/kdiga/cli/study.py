"""``kdiga study FILE``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_names
from kdiga.cli.output import Json, Output, Quiet


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(help="A study, by path or name; see docs/study.md.", autocompletion=recipe_names)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for everything. Default: runs/<file name>.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one a core; on a cluster, all that are ready.")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="local, dask, dask:ADDRESS or slurm:partition=gpu,time=60.")
    ] = "local",
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
    from kdiga.cli.run_progress import RunChoice, run_experiment, say, show_table
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.study import load_study
    from kdiga.report.study import about, headings, table_rows
    from kdiga.results.studies import StudyResult

    check_started_once("a study", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    overrides = [*(settings or []), *([] if seeds is None else [f"seeds=[{seeds}]"])]
    checked = load_study(file, out, overrides)
    choice = RunChoice(workers, executor, dry_run, report)
    made = run_experiment(checked, choice, output, f"kdiga study {file}", started=started)
    if made is None:
        return
    content, failed = made
    found = StudyResult.model_validate(content)
    show_table(output.console, headings(found), [row.texts() for row in table_rows(found)], "method")
    for line in filter(None, about(found)):
        say(output.console, line.replace("`", ""))
    say(output.console, f"Tables and pictures: {checked.out}/table.md, cells.csv, scatter.png, study.json")
    output.result(content, checked.out)
    checked.check_none_failed(failed)
