"""``kdiga demo``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import link, say, show_table
from kdiga.statistics import percent, percent_interval
from kdiga.workflows.requests import DemoRequest


@command()
def demo(request: DemoRequest, output: Output) -> None:
    """Show on digits what KD loses and gradient alignment keeps.

    A robust teacher is distilled by plain training, KD, kdiga and tangent; all models are attacked. It takes minutes.

    Example: kdiga demo --seed 1 --out runs/demo1
    """
    from kdiga.cli.progress import JobProgress
    from kdiga.distributed.launch import check_started_once
    from kdiga.progress_bar import TaskBar, duration
    from kdiga.report import write_page, write_summary
    from kdiga.results.evaluations import EvaluationResult
    from kdiga.results.explanations import ExplanationResult
    from kdiga.workflows.demo import DATA, THREAT, run_demo

    check_started_once("the demo", "without it")
    console, started = output.console, time.perf_counter()
    say(
        console,
        f"kdiga demo: {DATA}, {THREAT.norm} eps {THREAT.eps:g}, seed {request.seed}. A robust teacher is trained "
        "(PGD-AT), then four students; all five models are attacked.",
    )
    with (
        TaskBar(console, "demo") as teacher,
        JobProgress(console, "students and attacks") as jobs,
    ):
        models = run_demo(request, on_step=partial(teacher, "training the teacher"), on_job=jobs)
    page = write_page([request.out])
    evaluations = [EvaluationResult.model_validate(model) for model in models]
    write_summary(request.out / "figure.png", evaluations, ExplanationResult.read(request.out / "explanation.json"))
    say(console, f"{DATA}, {models[0]['examples']} test images:")
    show_table(console, ("model", "parameters", "clean", "PGD-40", "AutoAttack", "95 % interval"), map(_row, models))
    for verdict in page.verdicts:
        say(console, f"{verdict.headline}.")
    say(console, f"{_summary(models)}\n")
    say(console, f"{duration(time.perf_counter() - started)}. Open {link(page.path)}")
    output.result({"kind": "demo", "page": str(page.path), "models": models}, page.path)


def _summary(models: Sequence[dict[str, Any]]) -> str:
    """Return how much of the teacher's robust accuracy plain and aligned distillation preserved."""
    robust, size = ({one["name"]: one[key] for one in models} for key in ("accuracy", "parameters"))
    kept = {name: robust[name]["autoattack"] / (robust["teacher"]["autoattack"] or 1) for name in ("kd", "tangent")}
    return (
        f"Plain distillation kept {percent(kept['kd'], 0)} of the teacher's robustness, tangent alignment "
        f"{percent(kept['tangent'], 0)}, at 1/{size['teacher'] / size['tangent']:.0f} of the size."
    )


def _row(model: dict[str, Any]) -> Iterator[str]:
    yield model["name"]
    yield f"{model['parameters']:,}"
    yield from (percent(model["accuracy"][attack]) for attack in ("clean", "pgd-40", "autoattack"))
    yield percent_interval(model["interval_95"]["autoattack"])
