"""``kdiga report DIR...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import link, say
from kdiga.workflows.options import Option

if TYPE_CHECKING:
    from kdiga.report.page import Page

PARTS = {"sentences": "sentences", "why": "why", "trust": "reliability"}  # of a verdict, by name in the JSON output


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Results for one page."""

    folders: Annotated[
        Sequence[Path], Option("Folders with results: runs, studies, or folders above them.", argument=True)
    ]
    out: Annotated[
        Path | None, Option("The page. Default: report.html in the first folder.", flags=("--out", "-o"))
    ] = None
    title: Annotated[str | None, Option("Title of the page. Default: the question that it answers.")] = None


@command()
def report(request: ReportRequest, output: Output) -> None:
    """Put results into one self-contained page.

    The page begins with the answers; their evidence follows.

    Example: kdiga report runs/demo -o demo.html
    """
    from kdiga.report import write_page

    console = output.console
    page = write_page(request.folders, request.out, request.title)
    for verdict in page.verdicts:
        say(console, f"{verdict.headline}.", style="bold")
        for sentence in (*verdict.sentences, *verdict.why, *verdict.reliability):
            say(console, f"- {sentence}")
    for one in page.left_out:
        say(console, f"left out: {one.path}, because {one.reason}.", style="yellow")
    say(console, f"\nOpen {link(page.path)}")
    output.result(_content(page), page.path)


def _content(page: Page) -> dict[str, Any]:
    """Return the verdicts of the page as plain data."""
    answers = [
        {"headline": one.headline} | {key: [str(line) for line in getattr(one, name)] for key, name in PARTS.items()}
        for one in page.verdicts
    ]
    left_out = [{"path": str(one.path), "reason": one.reason} for one in page.left_out]
    return {"kind": "report", "page": str(page.path), "answers": answers, "left_out": left_out}
