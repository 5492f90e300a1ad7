"""``kdiga explain TEACHER STUDENT...``."""

from __future__ import annotations

from typing import Any

from kdiga.cli.command import command
from kdiga.cli.judging import run_judged
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.results.attack_names import eps_text
from kdiga.statistics import percent, percent_interval
from kdiga.workflows.requests import ExplainRequest


@command()
def explain(request: ExplainRequest, output: Output) -> None:
    """Measure how much robustness students got from a teacher, and why.

    The same command continues where an earlier one stopped.

    Example: kdiga explain runs/demo/teacher runs/demo/kd runs/demo/tangent --examples 200
    """
    from kdiga.workflows.explain import explain_runs

    run_judged(explain_runs, request, output, "explain", _show)


def _show(output: Output, content: dict[str, Any]) -> None:
    threat = content["threat"]
    say(
        output.console,
        f"{len(content['models'])} models on the first {content['examples']} test images of {content['data']}, "
        f"{threat['norm']} eps {eps_text(threat['eps'])}; losses in nats",
    )
    show_table(output.console, *_models_table(content))
    if any(ranking["spearman"] is not None for ranking in content["ranking"]):
        show_table(
            output.console,
            ("measure", "rank correlation", "95 % interval", "probability by chance"),
            map(_ranking_row, content["ranking"]),
        )
    for sentence in (*content["sentences"], *content["reasons"]):
        say(output.console, sentence)
    for finding in content["findings"]:
        if finding["verdict"] != "passed":
            say(output.console, f"{finding['name']} {finding['verdict']}: {finding['message']}", "yellow")


def _models_table(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    eps, rows = content["threat"]["eps"], list[list[str]]()
    headings = ["model", "clean", content["attack"], "95 % interval", "of teacher", "gamma", "eps |g|", "cosine"]
    headings += ["eps |g-gt|", "student bound", "measured", "transfer bound", "measured"]
    for model in content["models"]:
        gradient, bounds = model["gradient"], model.get("bounds")
        row = [
            model["name"],
            percent(model["clean"]),
            percent(model["robust"]["accuracy"]),
            percent_interval(model["robust"]["interval_95"]),
            "" if model.get("robustness_kept") is None else percent(model["robustness_kept"], 0),
            f"{model['linearity']['mean']:.2f}",
            f"{eps * gradient['norm']:.2f}",
            _number(gradient.get("cosine"), ".2f"),
        ]
        if bounds is not None:
            row += [f"{eps * gradient['distance']:.2f}"]
            row += [f"{bounds[name][what]:.2f}" for name in ("student", "transfer") for what in ("mean", "measured")]
        rows.append(row)
    return headings, rows


def _ranking_row(ranking: dict[str, Any]) -> tuple[str, ...]:
    interval = ranking["interval_95"]
    between = "" if interval is None else f"{interval[0]:.2f} - {interval[1]:.2f}"
    return ranking["bound"], _number(ranking["spearman"], ".2f"), between, _number(ranking["p_value"], ".2g")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
