"""``kdiga curve RECIPE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from kdiga.cli.app import command_line
from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.options import Option, RecipeName, Settings, comma_separated
from kdiga.workflows.requests import ReportedRunsRequest


def _seeds(given: str) -> tuple[int, ...]:
    from kdiga.errors import InputError

    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError:
        raise InputError(f"--seeds was {given!r}; give whole numbers, comma-separated, such as 0,1,2.") from None


@dataclass(frozen=True, kw_only=True)
class CurveRequest(ReportedRunsRequest):
    """Runs of a recipe over values of one coefficient."""

    recipe: RecipeName
    over: Annotated[
        str, Option("Coefficient and values: method.gradient_weight=0,0.3,1,3. Or interpolation=0.25,0.5,0.75.")
    ]
    at_most: Annotated[float, Option("Largest accepted loss of validation clean accuracy, percentage points.")] = 1.0
    seeds: Annotated[Sequence[int] | None, Option("Comma-separated. Default: the recipe's.", read=_seeds)] = None
    attacks: Annotated[
        Sequence[str], Option("Attacks on the start and on every run, after clean.", read=comma_separated)
    ] = ("pgd-20",)
    examples: Annotated[int | None, Option("Number of test images of these. Default: all.", least=1)] = None
    confirm: Annotated[str, Option("Attack on the start and the chosen point alone, or none.")] = "autoattack"
    confirm_examples: Annotated[int, Option("Number of test images of that attack.", least=1)] = 200
    settings: Settings = ()


@command()
def curve(request: CurveRequest, output: Output) -> None:
    """Measure robustness gained and clean accuracy lost by fine-tuning.

    The recipe runs once per value of a coefficient. Or it runs once, and --over interpolation=... moves the weights by
    shares of what training changed (WiSE-FT). The most robust point on validation images that loses at most --at-most
    points of clean accuracy there is compared with the start on test images. The same command continues where an
    earlier one stopped.

    Example: kdiga curve recipes/curve-resnet20.yaml --over method.gap_weight=0,1,3 --examples 1000
    """
    from kdiga.cli.run_progress import run_experiment
    from kdiga.experiments.curve import load_curve
    from kdiga.experiments.sections import EvaluateSettings

    attacks = tuple(dict.fromkeys(["clean", *filter(None, request.attacks)]))
    confirming, examples = request.confirm.strip().lower(), request.confirm_examples
    checked = load_curve(
        request.recipe,
        request.over,
        seeds=request.seeds or (),
        out=request.out,
        overrides=request.settings,
        at_most=request.at_most,
        evaluation=EvaluateSettings(attacks, request.examples, which=("best",)),
        confirmation=None if confirming == "none" else EvaluateSettings((confirming,), examples, which=("best",)),
    )
    run_experiment(replace(checked, command=command_line()), request, output, partial(_show, out=checked.out))


def _show(output: Output, content: dict[str, Any], out: Path) -> Path:
    from kdiga.report.curve import about, answer_lines, headings, table_rows
    from kdiga.results.studies import CurveResult

    found = CurveResult.model_validate(content)
    show_table(output.console, headings(found), table_rows(found))
    for line in filter(None, [*about(found), *answer_lines(found)]):
        say(output.console, line.replace("`", ""))
    say(output.console, f"Tables and pictures: {out}/curve.md, curve.csv, curve.png, curve-dark.png, curve.json")
    return out
