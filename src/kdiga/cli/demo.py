"""``kdiga demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, results and report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of weights, data order and attacks.")] = 0,
    examples: Annotated[int | None, typer.Option(min=1, help="Attack only the first so many test images.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in the folder.")] = False,
) -> None:
    """Show on digits that KD loses a teacher's robustness and that aligning input gradients keeps it.

    Example: kdiga demo --seed 1 --out runs/demo1
    """
    from kdiga.cli.progress import JobProgress, TrainingProgress
    from kdiga.demo import DATA, EPOCHS, TEACHER, THREAT, run_demo
    from kdiga.report import write_report

    console = Console()
    console.print(
        f"kdiga demo: {DATA}, {THREAT.norm} eps {THREAT.eps:g}, seed {seed}. A teacher is trained by PGD-AT, then four "
        "students; all are attacked.",
        highlight=False,
        soft_wrap=True,
    )
    with (
        TrainingProgress(console, TEACHER.name, EPOCHS, each_epoch=False) as teacher,
        JobProgress(console, "students and attacks") as jobs,
    ):
        results = run_demo(
            out, seed=seed, examples=examples, overwrite=overwrite,
            on_step=teacher.on_step, on_epoch=teacher.on_epoch, on_job=jobs,
        )  # fmt: skip
    report = write_report(out)
    console.print(f"{results['data']}, {results['test_images']} test images:", highlight=False)
    console.print(_table(results))
    for sentence in report.verdict:
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"\n{results['minutes']:.1f} minutes. Open {report.page}", highlight=False, soft_wrap=True)


def _table(results: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("model")
    for heading in ("parameters", "clean", "PGD-40", "AutoAttack", "95 % interval"):
        table.add_column(heading, justify="right")
    for entry in results["models"]:
        low, high = entry["interval_95"]["autoattack"]
        table.add_row(
            entry["name"],
            f"{entry['parameters']:,}",
            *(f"{entry[key]:.1%}" for key in ("clean", "pgd-40", "autoattack")),
            f"{low:.1%} - {high:.1%}",
        )
    return table
