"""``kdiga claims RECIPE``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_names
from kdiga.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from kdiga.experiments.claims import Claims
    from kdiga.results.studies import ClaimsResult


@app.command()
def claims(
    recipe: Annotated[
        Path, typer.Argument(help="A claims recipe, by path or name; see docs/claims.md.", autocompletion=recipe_names)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for everything. Default: runs/<file name>.")] = None,
    kept: Annotated[
        Path | None, typer.Option(help="Folder of finished runs' records. Default: <recipe>.cells beside the recipe.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
    stop_after: Annotated[
        float | None, typer.Option(min=0.0, metavar="MINUTES", help="Stop then; the same command continues.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write the page there, its pictures in images/ beside it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override: training.epochs=2.")
    ] = None,
    despite_findings: Annotated[
        bool, typer.Option("--despite-findings", help="Go on with a teacher that is not robust.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, list the runs, stop.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Only judge what is there and rewrite the page.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Test the paper's five claims: supported, contradicted or undecided, by rules fixed beforehand.

    The same command goes on where an earlier one stopped, and in a second terminal helps the first.

    Example: kdiga claims recipes/claims-cpu.yaml --page docs/claims-cpu.md
    """
    from kdiga.cli.run_progress import RunProgress, announce, planned
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.claims import load_claims, open_claims, report_claims, run_claims
    from kdiga.experiments.claims.records import RunRecords
    from kdiga.experiments.claims.run import default_kept
    from kdiga.experiments.failures import check_none_failed
    from kdiga.experiments.study_results import describe_outcome
    from kdiga.experiments.workers import default_workers
    from kdiga.report.claims import write_claims
    from kdiga.results.studies import ClaimsResult
    from kdiga.workflows.train import load_recipe_data

    check_started_once("a test of claims", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    console = output.console
    checked = load_claims(recipe, out, settings or [], kept)
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    records = RunRecords(kept or default_kept(recipe))
    board = open_claims(checked, data, records, since=0.0 if report else started, look_only=dry_run)
    if dry_run:
        states = ["kept" if records.holds(run_spec) else board.state(run_spec) for run_spec in board.run_specs]
        _list(console, checked, states)
        output.result(planned(checked.run_specs, states, checked.out))
        return
    if report:
        content = report_claims(checked, board, data)
    else:
        announce(console, f"kdiga claims {recipe}", "runs", board, checked.out)
        with RunProgress(console, recipe.stem, outcome=lambda folder: describe_outcome(board, folder)) as progress:
            content = run_claims(
                checked,
                board,
                data,
                records,
                workers=workers or default_workers(),
                on_watch=progress,
                despite_findings=despite_findings,
                minutes=stop_after,
            )
    found = ClaimsResult.model_validate(content)
    if page is not None:
        write_claims(found, page, page.parent / "images")
    _show(console, found, page or checked.out / "claims.md")
    output.result(content, page or checked.out / "claims.md")
    if not report:
        check_none_failed(board.folders("failed"), "run", checked.out)


def _list(console: Console, checked: Claims, states: list[str]) -> None:
    from kdiga.cli.printing import print_table

    table = Table()
    for heading in ("run", "method", "epochs", "learns from", "and then", "state"):
        table.add_column(heading)
    for run_spec, state in zip(checked.run_specs, states, strict=True):
        start = run_spec.kind == "start"
        then = [f"{attack}" for attack in checked.evaluation.attacks] if run_spec.which else []
        table.add_row(
            run_spec.folder,
            "none" if start else run_spec.recipe.method.info.name,
            "0" if start else str(run_spec.recipe.training.epochs),
            ", ".join(run_spec.needs),
            ", ".join([*then, *(step.file.removesuffix(".json") for step in run_spec.after)]),
            state,
        )
    print_table(console, table)
    console.print(f"# {len(checked.run_specs)} runs; would write to {checked.out}", highlight=False, soft_wrap=True)


def _show(console: Console, found: ClaimsResult, page: Path) -> None:
    from kdiga.cli.printing import say
    from kdiga.report.claims import CLAIMS, verdict_line

    for name, text in CLAIMS.items():
        say(console, f"{name}. {text}")
        say(console, f"   {verdict_line(found, name)}")
    left = found.total - found.done
    if left:
        say(console, f"{left} of {found.total} runs are left; the same command continues.")
    say(console, f"Page: {page}")
