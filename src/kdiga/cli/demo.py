"""``kdiga demo``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.requests import DemoRequest


@command()
def demo(request: DemoRequest, output: Output) -> None:
    """Show on digits what KD loses and gradient alignment keeps.

    A robust teacher is distilled by plain training, KD, kdiga and tangent; all models are attacked. It takes minutes.

    Example: kdiga demo --seed 1 --out runs/demo1
    """
    from kdiga.cli.progress import JobProgress, TrainingProgress
    from kdiga.distributed.launch import check_started_once
    from kdiga.report import write_page, write_summary
    from kdiga.results.evaluations import EvaluationResult
    from kdiga.results.explanations import ExplanationResult
    from kdiga.workflows.demo import DATA, EPOCHS, TEACHER, THREAT, run_demo

    check_started_once("the demo", "without it")
    console, started = output.console, time.perf_counter()
    say(
        console,
        f"kdiga demo: {DATA}, {THREAT.norm} eps {THREAT.eps:g}, seed {request.seed}. A teacher is trained by PGD-AT, "
        "then four students; all are attacked.",
    )
    with (
        TrainingProgress(console, TEACHER.name, EPOCHS, each_epoch=False) as teacher,
        JobProgress(console, "students and attacks") as jobs,
    ):
        models = run_demo(request, on_step=teacher.on_step, on_epoch=teacher.on_epoch, on_job=jobs)
    page = write_page([request.out])
    evaluations = [EvaluationResult.model_validate(model) for model in models]
    write_summary(request.out / "figure.png", evaluations, ExplanationResult.read(request.out / "explanation.json"))
    say(console, f"{DATA}, {models[0]['examples']} test images:")
    show_table(console, ("model", "parameters", "clean", "PGD-40", "AutoAttack", "95 % interval"), map(_row, models))
    for verdict in page.verdicts:
        for sentence in verdict.sentences:
            say(console, str(sentence))
    say(console, f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Open {page.path}")
    output.result({"kind": "demo", "page": str(page.path), "models": models}, page.path)


def _row(model: dict[str, Any]) -> Iterator[str]:
    low, high = model["interval_95"]["autoattack"]
    yield model["name"]
    yield f"{model['parameters']:,}"
    yield from (f"{model['accuracy'][attack]:.1%}" for attack in ("clean", "pgd-40", "autoattack"))
    yield f"{low:.1%} - {high:.1%}"
