"""``kdiga compare FIRST OTHER...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.errors import InputError
from kdiga.statistics import percent
from kdiga.workflows.options import Option

if TYPE_CHECKING:
    from rich.console import Console

    from kdiga.results.evaluations import EvaluationResult

FILES = ("evaluation.json", "best-test.json")  # of `kdiga evaluate`, else of a study


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

    Example: kdiga compare runs/demo/tangent runs/demo/kd runs/demo/kdiga
    """
    from kdiga.results.shared import short_names

    first, *others = request.models
    if not others:
        raise InputError(f"only {str(first)!r} was given; give the models to compare it with as well.")
    one_name, *names = short_names(list(map(str, request.models)))
    compared = [
        _compare(output.console, _pair(first, other), (one_name, name))
        for other, name in zip(others, names, strict=True)
    ]
    content = {"kind": "comparison", "command": command_line(), "comparisons": compared}
    output.result(content | (compared[0] if len(compared) == 1 else {}))


def _compare(
    console: Console, pair: tuple[EvaluationResult, EvaluationResult], names: tuple[str, str]
) -> dict[str, Any]:
    """Print the comparison of two models, and return it as plain data."""
    from kdiga.report.differences import compare_evaluations

    (one, other), (first, second) = pair, names
    rows = compare_evaluations(one, other)
    say(console, f"{first} and {second}: {rows[0].examples} test images of {one.data}")
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
        for row in rows
    )
    correct = f"only {first} correct", f"only {second} correct"
    show_table(console, ("attack", first, second, "difference", "95 % interval", *correct), cells)
    for row in rows:
        say(console, row.sentence(first, second))
    return {"first": one.model, "second": other.model, "attacks": [row.to_dict() for row in rows]}


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
        f"{str(first)!r} and {str(second)!r} hold {len(ones)} and {len(others)} evaluations, {how}; give the folder of "
        "one evaluation of each."
    )


def _read(path: Path) -> list[EvaluationResult]:
    from kdiga.results.shared import REPLACED

    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist; pass a run evaluated with `kdiga evaluate`.")
    if not path.is_dir():
        return [_evaluation(path)]
    for name in FILES:
        if files := [file for file in sorted(path.rglob(name)) if REPLACED not in file.relative_to(path).parts]:
            found = [_evaluation(file) for file in files]
            stale = [_stale(one) for one in found]
            if None not in stale:
                raise InputError(f"{str(path)!r} holds no current evaluation: {stale[0]}; evaluate it again.")
            return [one for one, reason in zip(found, stale, strict=True) if reason is None]
    raise InputError(f"{str(path)!r} holds no evaluation; make one with `kdiga evaluate {path}`.")


def _stale(found: EvaluationResult) -> str | None:
    """Return in words that the run of an evaluation has other weights now; None if it has not, or it is unknown."""
    from kdiga.results.runs import RunResult

    folder, which = found.identity.folder, found.which or "best"
    current = RunResult.read(folder).fingerprint(which) if folder else None
    if current is None or found.fingerprint in (None, current):
        return None
    return f"{str(found.path)!r} evaluates the weights {found.fingerprint[:12]}, but the run has {current[:12]}"


def _evaluation(path: Path) -> EvaluationResult:
    from kdiga.results.evaluations import EvaluationResult

    try:
        found = EvaluationResult.read(path)
        if any(found.correct.values()):
            return found
        problem = "it has no per-example results"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{str(path)!r} is not an evaluation ({problem}); pass a run evaluated with `kdiga evaluate`.")
