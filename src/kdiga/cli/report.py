"""``kdiga report DIR...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kdiga.cli.app import app
from kdiga.cli.printing import say


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders with results: runs, studies, or folders above them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page. Default: report.html in the first folder.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page. Default: the question it answers.")] = None,
) -> None:
    """Put results into one self-contained page: what they say first, then what it rests on.

    Example: kdiga report runs/study -o study.html
    """
    from kdiga.report import write_page

    console = Console()
    page = write_page(folders, out, title)
    for answer in page.answers:
        say(console, answer.headline, style="bold")
        for sentence in (*answer.sentences, *answer.why, *answer.trust):
            say(console, f"- {sentence}")
    for one in page.left_out:
        say(console, f"left out: {one.path}, because {one.reason}.", style="yellow")
    say(console, f"\nOpen {page.path}")
