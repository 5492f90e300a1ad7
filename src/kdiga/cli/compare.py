"""``kdiga compare FIRST OTHER...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.errors import InputError
from kdiga.statistics import percent
from kdiga.workflows.options import Option

if TYPE_CHECKING:
    from rich.console import Console

    from kdiga.workflows.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Evaluations on the same images."""

    models: Annotated[
        Sequence[Path],
        Option("Evaluated runs, folders of evaluations, or their JSON files: at least two.", argument=True),
    ]


@command()
def compare(request: CompareRequest, output: Output) -> None:
    """Compare a model with others example by example.

    It compares the first model with each of the others: the difference of their accuracies under each attack, with its
    paired 95 % interval.

    Example: kdiga compare runs/demo/tangent runs/demo/kd runs/demo/teacher
    """
    from kdiga.workflows.compare import compare as compared

    first, *others = request.models
    if not others:
        raise InputError(f"only {str(first)!r} was given; give the models to compare it with as well.")
    found = [compared(first, other) for other in others]
    for one in found:
        _show(output.console, one)
    content = {"kind": "comparison", "command": command_line(), "comparisons": [one.to_dict() for one in found]}
    output.result(content | (found[0].to_dict() if len(found) == 1 else {}))


def _show(console: Console, found: Comparison) -> None:
    first, second = found.names
    say(console, f"{first} and {second}: {found.attacks[0].examples} test images of {found.data}")
    cells = (
        (
            row.attack,
            percent(row.first),
            percent(row.second),
            f"{100 * row.difference:+.1f}",
            f"{100 * row.interval[0]:+.1f} to {100 * row.interval[1]:+.1f}",
            str(row.only_first),
            str(row.only_second),
        )
        for row in found.attacks
    )
    correct = f"only {first} correct", f"only {second} correct"
    show_table(console, ("attack", first, second, "difference", "95 % interval", *correct), cells)
    for sentence in found.sentences:
        say(console, sentence)
