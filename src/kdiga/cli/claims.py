"""``kdiga claims RECIPE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say
from kdiga.workflows.options import RECIPES, Option
from kdiga.workflows.requests import ReportedRunsRequest


@dataclass(frozen=True, kw_only=True)
class ClaimsRequest(ReportedRunsRequest):
    """A test of the paper's claims, or its page alone."""

    recipe: Annotated[
        Path,
        Option("A claims recipe: a YAML file, or a name that kdiga recipes lists.", names=RECIPES, argument=True),
    ]
    records: Annotated[
        Path | None, Option("Folder with the records of finished runs. Default: results/<recipe name>.")
    ] = None
    kept: Annotated[Path | None, Option("Earlier name of --records.", hidden=True)] = None
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
    from kdiga.experiments.claims.claims import load_claims

    if request.kept is not None:
        say(output.console, "--kept is now called --records, and will be removed.", style="yellow")
    checked = load_claims(
        request.recipe,
        request.out,
        request.settings,
        request.records or request.kept,
        despite_findings=request.despite_findings,
    )
    show = partial(_show, own=checked.out / "claims.md", further=request.page)
    run_experiment(checked, request, output, show)


def _show(output: Output, content: dict[str, Any], own: Path, further: Path | None) -> Path:
    from kdiga.report.claims import CLAIMS, verdict_line, write_claims
    from kdiga.results.studies import ClaimsResult

    found, page = ClaimsResult.model_validate(content), further or own
    if further is not None:
        write_claims(found, page, page.parent / "images")
    for name, text in CLAIMS.items():
        say(output.console, f"{name}. {text}")
        say(output.console, f"   {verdict_line(found, name)}")
    left = found.total - found.done
    if left:
        say(output.console, f"{left} of {found.total} runs are left; the same command continues.")
    say(output.console, f"Page: {page}")
    return page
