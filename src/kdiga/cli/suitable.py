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
    found = content["entropy"]
    if found["fooled"] is not None:
        others = "" if found["others"] is None else f", {found['others']:.2f} on the others"
        where = f"{found['fooled']:.2f} nats on the {found['fooled_examples']} images on which it is fooled{others}"
        say(output.console, f"Entropy of its answers: {where}; at most {found['largest']:.2f}.")
    say(output.console, content["sentence"])
