"""``kdiga compare FIRST SECOND``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.errors import InputError
from kdiga.workflows.options import Option

if TYPE_CHECKING:
    from kdiga.results.evaluations import EvaluationResult

FILES = ("evaluation.json", "best-test.json")  # of `kdiga evaluate`, else of a study
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
    from kdiga.report.differences import compare_evaluations

    console = output.console
    one, other = _pair(request.first, request.second)
    rows = compare_evaluations(one, other)
    say(console, f"first: {one.model}, second: {other.model}, {rows[0].examples} test images of {one.data}")
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
        for row in rows
    )
    show_table(console, HEADINGS, cells)
    for row in rows:
        say(console, row.sentence())
    content = {"kind": "comparison", "command": command_line(), "first": one.model, "second": other.model}
    output.result(content | {"attacks": [row.to_dict() for row in rows]})


def _pair(first: Path, second: Path) -> tuple[EvaluationResult, EvaluationResult]:
    """Return an evaluation of each; of several, those on the same images under one threat model, the most images."""
    ones, others = _read(first), _read(second)
    if len(ones) == len(others) == 1:
        return ones[0], others[0]
    pairs = [(a, b) for a in ones for b in others if a.conditions == b.conditions]
    threats = {pair[0].conditions.key for pair in pairs}
    if len(threats) == 1:
        return max(pairs, key=lambda pair: max(len(right or ()) for right in pair[0].correct.values()))
    how = "none on the same images" if not pairs else f"pairs under {len(threats)} threat models"
    raise InputError(
        f"{str(first)!r} and {str(second)!r} hold {len(ones)} and {len(others)} evaluations, {how}; name the folder of "
        "one of each."
    )


def _read(path: Path) -> list[EvaluationResult]:
    from kdiga.results.shared import REPLACED

    if not path.is_dir():
        return [_evaluation(path)]
    for name in FILES:
        if files := [file for file in sorted(path.rglob(name)) if REPLACED not in file.relative_to(path).parts]:
            found = [_evaluation(file) for file in files]
            stale = [_stale(one) for one in found]
            if None not in stale:
                raise InputError(f"{str(path)!r} holds no evaluation of its weights: {stale[0]}; evaluate it again.")
            return [one for one, reason in zip(found, stale, strict=True) if reason is None]
    raise InputError(f"{str(path)!r} holds no evaluation; make one with `kdiga evaluate {path}`.")


def _stale(found: EvaluationResult) -> str | None:
    """Return in words that the run of an evaluation has other weights now; None if it has not, or it is unknown."""
    from kdiga.results.runs import RunResult

    folder, which = found.identity.folder, found.which or "best"
    current = RunResult.read(folder).fingerprint(which) if folder else None
    if current is None or found.fingerprint in (None, current):
        return None
    return f"{str(found.path)!r} is of the weights {found.fingerprint[:12]}, and the run has {current[:12]}"


def _evaluation(path: Path) -> EvaluationResult:
    from kdiga.results.evaluations import EvaluationResult

    try:
        found = EvaluationResult.read(path)
        if any(found.correct.values()):
            return found
        problem = "it has no per-example results"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{str(path)!r} is not an evaluation ({problem}); give what `kdiga evaluate` wrote.")
