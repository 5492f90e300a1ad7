"""``kdiga evaluate MODEL``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.judging import model_line, run_judged
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.results.attack_names import eps_text
from kdiga.statistics import percent, percent_interval
from kdiga.workflows.requests import EvaluateRequest

VERDICTS = ("passed", "warning", "failed", "skipped")


@command()
def evaluate(request: EvaluateRequest, output: Output) -> None:
    """Measure clean and robust accuracy, with 95 % intervals.

    Results are saved in the run folder after each batch of each attack. After an interruption the same command
    continues, and two that run at the same time share the work.

    Example: kdiga evaluate runs/demo/tangent --attacks clean,pgd-40x3,autoattack --examples 200 --sweep auto
    """
    from kdiga.workflows.evaluate import run_evaluation

    run_judged(run_evaluation, request, output, request.model, _show)


def _show(output: Output, content: Mapping[str, Any]) -> None:
    say(output.console, model_line(content))
    if content.get("trained_test_images") == 0:  # otherwise a finding says it
        say(output.console, "No test image is among its training images.")
    show_table(output.console, ("attack", "accuracy", "95 % interval", "worst class", "seconds"), _rows(content))
    from kdiga.results.evaluations import EvaluationResult  # here, because pydantic loads slowly

    findings = EvaluationResult.model_validate(content).open_findings
    for finding in findings:
        if finding.verdict in ("failed", "warning"):
            say(output.console, f"{finding.name} {finding.verdict}: {finding.message}", style="yellow")
    counts = Counter(finding.verdict for finding in findings)
    if counts:
        verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        say(output.console, f"checks for masked gradients: {verdicts}")
    for name, notes in content["notes"].items():
        for note in notes:
            say(output.console, f"{name}: {note}", style="yellow")


def _rows(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, accuracy in content["accuracy"].items():
        interval, seconds = percent_interval(content["interval_95"][name]), f"{content['seconds'][name]:.1f}"
        yield name, percent(accuracy), interval, _class(content.get("worst_class", {}).get(name)), seconds
        for stage, left in content["stages"].get(name, {}).items():
            yield f"  after {stage}", percent(left), "", "", ""
    curve = content.get("sweep")
    if curve is not None:
        for eps, accuracy, ends in zip(curve["eps"], curve["accuracy"], curve["interval_95"], strict=True):
            yield f"{curve['attack']} at eps {eps_text(eps)}", percent(accuracy), percent_interval(ends), "", ""
    if (corrupted := content.get("corruptions")) is not None:
        interval = percent_interval(corrupted["interval_95"])
        yield "common corruptions", percent(corrupted["mean"]), interval, _class(corrupted["worst_class"]), ""
        for name, found in corrupted["accuracy"].items():
            yield f"  {name}", percent(sum(found) / len(found)), "", "", ""


def _class(worst: Mapping[str, Any] | None) -> str:
    return "" if worst is None else f"{percent(worst['accuracy'])} of {worst['examples']} ({worst['name']})"
