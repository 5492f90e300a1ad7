"""``kdiga evaluate MODEL``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.judging import model_line, run_judged
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.requests import EvaluateRequest

VERDICTS = ("passed", "warning", "failed", "skipped")


@command()
def evaluate(request: EvaluateRequest, output: Output) -> None:
    """Measure clean and robust accuracy, with 95 % intervals.

    The results of a run go to its folder, as soon as each attack is done with a batch: the same command continues
    after an interruption, and two at a time share the work.

    Example: kdiga evaluate runs/demo/tangent --attacks clean,pgd-40x3,autoattack --examples 200 --sweep auto
    """
    from kdiga.workflows.evaluate import run_evaluation

    run_judged(run_evaluation, request, output, request.model, _show)


def _show(output: Output, content: Mapping[str, Any]) -> None:
    say(output.console, model_line(content))
    if content.get("trained_test_images") == 0:  # otherwise a finding says it
        say(output.console, "No test image is among the images that it was trained on.")
    show_table(output.console, ("attack", "accuracy", "95 % interval", "worst class", "seconds"), _rows(content))
    for finding in content.get("findings", []):
        if finding["verdict"] in ("failed", "warning"):
            say(output.console, f"{finding['name']} {finding['verdict']}: {finding['message']}", style="yellow")
    counts = Counter(finding["verdict"] for finding in content.get("findings", []))
    if counts:
        verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        say(output.console, f"checks for masked gradients: {verdicts}")
    for name, notes in content["notes"].items():
        for note in notes:
            say(output.console, f"{name}: {note}", style="yellow")


def _rows(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, accuracy in content["accuracy"].items():
        low, high = content["interval_95"][name]
        worst = content.get("worst_class", {}).get(name)
        weakest = "" if worst is None else f"{worst['accuracy']:.1%} of {worst['examples']} ({worst['name']})"
        yield name, f"{accuracy:.1%}", f"{low:.1%} - {high:.1%}", weakest, f"{content['seconds'][name]:.1f}"
        for stage, left in content["stages"].get(name, {}).items():
            yield f"  after {stage}", f"{left:.1%}", "", "", ""
    curve = content.get("sweep")
    if curve is not None:
        for eps, accuracy, (low, high) in zip(curve["eps"], curve["accuracy"], curve["interval_95"], strict=True):
            yield f"{curve['attack']} at eps {eps:.4g}", f"{accuracy:.1%}", f"{low:.1%} - {high:.1%}", "", ""
