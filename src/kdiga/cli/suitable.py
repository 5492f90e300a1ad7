"""``kdiga suitable TEACHER``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import model_line, say, show_table
from kdiga.workflows.requests import SuitableRequest

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = ("check", "verdict", "found")


@command()
def suitable(request: SuitableRequest, output: Output) -> None:
    """Check before training whether a teacher is worth distilling.

    Example: kdiga suitable runs/demo/teacher --examples 500
    """
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.workflows.suitable import run_suitable

    with EvaluationProgress(output.console, request.teacher) as progress:
        content, folder = run_suitable(request, command=command_line(), progress=progress)
    _show(output.console, content)
    if folder is not None:
        say(output.console, f"Results: {folder}")
    output.result(content, folder)


def _show(console: Console, content: Mapping[str, Any]) -> None:
    say(console, model_line(content, "the first "))
    rows = ((finding["name"], finding["verdict"], finding["message"]) for finding in content["findings"])
    show_table(console, HEADINGS, rows, words=HEADINGS)
    say(console, content["sentence"])
