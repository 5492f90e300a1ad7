"""``kdiga suitable TEACHER``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.judging import model_line, run_judged
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.requests import SuitableRequest

HEADINGS = ("check", "verdict", "found")


@command()
def suitable(request: SuitableRequest, output: Output) -> None:
    """Check before training whether a teacher is worth distilling.

    Example: kdiga suitable runs/demo/teacher --examples 500
    """
    from kdiga.workflows.suitable import run_suitable

    run_judged(run_suitable, request, output, request.teacher, _show)


def _show(output: Output, content: Mapping[str, Any]) -> None:
    say(output.console, model_line(content, "the first "))
    rows = ((finding["name"], finding["verdict"], finding["message"]) for finding in content["findings"])
    show_table(output.console, HEADINGS, rows, words=HEADINGS)
    say(output.console, content["sentence"])
