"""``kdiga study FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.options import RECIPES, Option
from kdiga.workflows.requests import ReportedRunsRequest


@dataclass(frozen=True, kw_only=True)
class StudyRequest(ReportedRunsRequest):
    """A study, or its tables alone."""

    file: Annotated[
        Path, Option("A study: a YAML file, or a name that kdiga recipes lists.", names=RECIPES, argument=True)
    ]
    seeds: Annotated[str | None, Option("Seeds in place of the file's, comma-separated.")] = None
    settings: Annotated[
        Sequence[str], Option("Override a key: base.training.epochs=2.", flags=("--set",), metavar="KEY=VALUE")
    ] = ()


@command()
def study(request: StudyRequest, output: Output) -> None:
    """Compare methods fairly, over several seeds, in one table.

    All methods have the same teacher, student, data and attacks; docs/study.md describes the file. The same command
    continues where an earlier one stopped, and shares the work of one in a second terminal.

    Example: kdiga study recipes/study-digits.yaml --out runs/comparison
    """
    from kdiga.cli.run_progress import run_experiment
    from kdiga.experiments.study import load_study

    overrides = [*request.settings, *([] if request.seeds is None else [f"seeds=[{request.seeds}]"])]
    checked = load_study(request.file, request.out, overrides)
    run_experiment(checked, request, output, partial(_show, out=checked.out))


def _show(output: Output, content: dict[str, Any], out: Path) -> Path:
    from kdiga.report.study import about, headings, table_rows
    from kdiga.results.studies import StudyResult

    found = StudyResult.model_validate(content)
    show_table(output.console, headings(found), (row.texts() for row in table_rows(found)))
    for line in filter(None, about(found)):
        say(output.console, line.replace("`", ""))
    say(output.console, f"Tables and pictures: {out}/table.md, cells.csv, scatter.png, study.json")
    return out
