"""``kdiga report DIR...``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdiga.cli.app import app
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import say

if TYPE_CHECKING:
    from kdiga.report.page import Page

PARTS = {"sentences": "sentences", "why": "why", "trust": "reliability"}  # of a verdict, by name in the JSON output


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders with results: runs, studies, or folders above them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page. Default: report.html in the first folder.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page. Default: the question it answers.")] = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Put results into one self-contained page: what they say first, then what it rests on.

    Example: kdiga report runs/demo -o demo.html
    """
    from kdiga.report import write_page

    output = Output(json_file, quiet=quiet)
    console = output.console
    page = write_page(folders, out, title)
    for verdict in page.verdicts:
        say(console, verdict.headline, style="bold")
        for sentence in (*verdict.sentences, *verdict.why, *verdict.reliability):
            say(console, f"- {sentence}")
    for one in page.left_out:
        say(console, f"left out: {one.path}, because {one.reason}.", style="yellow")
    say(console, f"\nOpen {page.path}")
    output.result(_content(page), page.path)


def _content(page: Page) -> dict[str, Any]:
    """Return what the page says first, as plain data."""
    answers = [
        {"headline": one.headline} | {key: [str(line) for line in getattr(one, name)] for key, name in PARTS.items()}
        for one in page.verdicts
    ]
    left_out = [{"path": str(one.path), "reason": one.reason} for one in page.left_out]
    return {"kind": "report", "page": str(page.path), "answers": answers, "left_out": left_out}
