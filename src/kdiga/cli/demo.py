"""``kdiga demo``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kdiga.cli.app import app
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import print_table, say


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, results and report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of weights, data order and attacks.")] = 0,
    examples: Annotated[int | None, typer.Option(min=1, help="Attack only the first so many test images.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in the folder.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Show on digits that KD loses a teacher's robustness and that aligning input gradients keeps it.

    Example: kdiga demo --seed 1 --out runs/demo1
    """
    from kdiga.cli.progress import JobProgress, TrainingProgress
    from kdiga.distributed.launch import check_started_once
    from kdiga.report import write_page, write_summary
    from kdiga.results.evaluations import EvaluationResult
    from kdiga.results.explanations import ExplanationResult
    from kdiga.workflows.demo import DATA, EPOCHS, TEACHER, THREAT, run_demo

    check_started_once("the demo", "without it")
    output, started = Output(json_file, quiet=quiet), time.perf_counter()
    console = output.console
    say(
        console,
        f"kdiga demo: {DATA}, {THREAT.norm} eps {THREAT.eps:g}, seed {seed}. A teacher is trained by PGD-AT, then four "
        "students; all are attacked.",
    )
    with (
        TrainingProgress(console, TEACHER.name, EPOCHS, each_epoch=False) as teacher,
        JobProgress(console, "students and attacks") as jobs,
    ):
        models = run_demo(
            out,
            seed=seed,
            examples=examples,
            overwrite=overwrite,
            on_step=teacher.on_step,
            on_epoch=teacher.on_epoch,
            on_job=jobs,
        )
    page = write_page([out])
    evaluations = [EvaluationResult.model_validate(model) for model in models]
    write_summary(out / "figure.png", evaluations, ExplanationResult.read(out / "explanation.json"))
    say(console, f"{DATA}, {models[0]['examples']} test images:")
    print_table(console, _table(models))
    for verdict in page.verdicts:
        for sentence in verdict.sentences:
            say(console, str(sentence))
    say(console, f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Open {page.path}")
    output.result({"kind": "demo", "page": str(page.path), "models": models}, page.path)


def _table(models: Sequence[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("model")
    for heading in ("parameters", "clean", "PGD-40", "AutoAttack", "95 % interval"):
        table.add_column(heading, justify="right")
    for model in models:
        low, high = model["interval_95"]["autoattack"]
        table.add_row(
            model["name"],
            f"{model['parameters']:,}",
            *(f"{model['accuracy'][attack]:.1%}" for attack in ("clean", "pgd-40", "autoattack")),
            f"{low:.1%} - {high:.1%}",
        )
    return table
