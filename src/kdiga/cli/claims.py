"""``kdiga claims RECIPE``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say
from kdiga.workflows.options import Option, recipe_names
from kdiga.workflows.requests import ReportedRunsRequest

if TYPE_CHECKING:
    from rich.console import Console

    from kdiga.results.studies import ClaimsResult


@dataclass(frozen=True, kw_only=True)
class ClaimsRequest(ReportedRunsRequest):
    """A test of the paper's claims, or its page alone."""

    recipe: Annotated[
        Path,
        Option("A claims recipe: a YAML file, or a name that kdiga recipes lists.", names=recipe_names, argument=True),
    ]
    records: Annotated[
        Path | None, Option("Folder with the records of finished runs. Default: results/<recipe name>.")
    ] = None
    kept: Annotated[Path | None, Option("Earlier name of --records.", hidden=True)] = None
    stop_after: Annotated[
        float | None, Option("Stop after this time; the same command continues.", metavar="MINUTES", least=0.0)
    ] = None
    page: Annotated[
        Path | None, Option("Also write the page to this file, its pictures to images/ in the same folder.")
    ] = None
    settings: Annotated[
        Sequence[str], Option("Override a key: training.epochs=2.", flags=("--set",), metavar="KEY=VALUE")
    ] = ()
    despite_findings: Annotated[bool, Option("Continue with a teacher that is not robust.")] = False


@command()
def claims(request: ClaimsRequest, output: Output) -> None:
    """Test the paper's five claims by rules fixed beforehand.

    Each is supported, contradicted or undecided; see docs/claims.md. The same command continues where an earlier one
    stopped, and shares the work of one in a second terminal.

    Example: kdiga claims recipes/claims-cpu.yaml --page docs/claims-cpu.md
    """
    from kdiga.cli.run_progress import run_experiment
    from kdiga.distributed.launch import check_started_once
    from kdiga.experiments.claims.claims import load_claims
    from kdiga.report.claims import write_claims
    from kdiga.results.studies import ClaimsResult

    check_started_once("a test of claims", "with --workers N")
    started = time.time()
    if request.kept is not None:
        say(output.console, "--kept is now called --records, and will be removed.", style="yellow")
    checked = load_claims(
        request.recipe,
        request.out,
        request.settings,
        request.records or request.kept,
        despite_findings=request.despite_findings,
    )
    made = run_experiment(
        checked,
        request,
        output,
        f"kdiga claims {request.recipe}",
        started=started,
        minutes=request.stop_after,
    )
    if made is None:
        return
    content, failed = made
    found = ClaimsResult.model_validate(content)
    page = request.page or checked.out / "claims.md"
    if request.page is not None:
        write_claims(found, page, page.parent / "images")
    _show(output.console, found, page)
    output.result(content, page)
    checked.check_none_failed(failed)


def _show(console: Console, found: ClaimsResult, page: Path) -> None:
    from kdiga.report.claims import CLAIMS, verdict_line

    for name, text in CLAIMS.items():
        say(console, f"{name}. {text}")
        say(console, f"   {verdict_line(found, name)}")
    left = found.total - found.done
    if left:
        say(console, f"{left} of {found.total} runs are left; the same command continues.")
    say(console, f"Page: {page}")
