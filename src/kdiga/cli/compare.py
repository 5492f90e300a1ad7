"""``kdiga compare FIRST SECOND``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.options import Option

HEADINGS = ("attack", "first", "second", "difference", "95 % interval", "only first right", "only second")


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Two evaluations on the same images."""

    first: Annotated[Path, Option("An evaluation: its folder, its JSON file, or an evaluated run.", argument=True)]
    second: Annotated[Path, Option("An evaluation of another model, on the same test images.", argument=True)]


@command()
def compare(request: CompareRequest, output: Output) -> None:
    """Compare two models example by example, with paired intervals.

    It shows the difference of their accuracies under each attack, with its paired 95 % interval.

    Example: kdiga compare runs/demo/tangent runs/demo/kd
    """
    from kdiga.workflows.compare import compare as compared

    found, console = compared(request.first, request.second), output.console
    say(
        console,
        f"first: {found.first}, second: {found.second}, {found.attacks[0].examples} test images of {found.data}",
    )
    cells = (
        (
            row.attack,
            f"{row.first:.1%}",
            f"{row.second:.1%}",
            f"{100 * row.difference:+.1f}",
            f"{100 * row.interval[0]:+.1f} to {100 * row.interval[1]:+.1f}",
            str(row.only_first),
            str(row.only_second),
        )
        for row in found.attacks
    )
    show_table(console, HEADINGS, cells)
    for sentence in found.sentences:
        say(console, sentence)
    output.result({"kind": "comparison", "command": command_line()} | found.to_dict())
