"""``kdiga claims RECIPE``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_names
from kdiga.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from kdiga.results.studies import ClaimsResult


@app.command()
def claims(
    recipe: Annotated[
        Path, typer.Argument(help="A claims recipe, by path or name; see docs/claims.md.", autocompletion=recipe_names)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for everything. Default: runs/<file name>.")] = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder of finished runs' records. Default: results/<recipe name>.")
    ] = None,
    kept: Annotated[Path | None, typer.Option(hidden=True, help="Earlier name of --records.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one a core; on a cluster, all that are ready.")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="local, dask, dask:ADDRESS or slurm:partition=gpu,time=60.")
    ] = "local",
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
    from kdiga.cli.run_progress import RunChoice, run_experiment, say
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.claims.claims import load_claims
    from kdiga.report.claims import write_claims
    from kdiga.results.studies import ClaimsResult

    check_started_once("a test of claims", "with --workers N")
    started, output = time.time(), Output(json_file, quiet=quiet)
    if kept is not None:
        say(output.console, "--kept is now called --records, and will be removed.", style="yellow")
    checked = load_claims(recipe, out, settings or [], records or kept, despite_findings=despite_findings)
    choice = RunChoice(workers, executor, dry_run, report, stop_after)
    made = run_experiment(checked, choice, output, f"kdiga claims {recipe}", started=started)
    if made is None:
        return
    content, failed = made
    found = ClaimsResult.model_validate(content)
    if page is not None:
        write_claims(found, page, page.parent / "images")
    _show(output.console, found, page or checked.out / "claims.md")
    output.result(content, page or checked.out / "claims.md")
    checked.check_none_failed(failed)


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
