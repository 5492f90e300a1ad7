"""``kdiga train RECIPE``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_keys, recipe_names
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import say

if TYPE_CHECKING:
    from kdiga.training import EpochRecord
    from kdiga.workflows.prepare import PreparedRun


@app.command()
def train(
    recipe: Annotated[
        Path,
        typer.Argument(help="A recipe: a YAML file, or a name that kdiga recipes lists.", autocompletion=recipe_names),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: training.seed=1.", autocompletion=recipe_keys),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<recipe name>.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the resolved run, stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
    despite_findings: Annotated[
        bool, typer.Option("--despite-findings", help="Train even if a check of the teacher failed.")
    ] = False,
    track: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Follow the run in tensorboard, wandb or both; see docs/export.md.")
    ] = "",
    track_project: Annotated[str, typer.Option(help="What trackers file the run under.")] = "kdiga",
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Train a teacher or distil a student as a recipe says.

    First it says what the models are, and tries trained ones on 128 training images: a teacher of the wrong
    preprocessing, input size or order of classes stops it.

    Example: kdiga train recipes/digits-kdiga.yaml --set training.seed=1 --out runs/seed1
    """
    from kdiga.cli.printing import described, tell_notes
    from kdiga.cli.progress import TrainingProgress
    from kdiga.recipes.load import load_recipe
    from kdiga.training.loop import TrainingCallbacks
    from kdiga.training.tracking import Trackers
    from kdiga.workflows.cache import stored_teacher
    from kdiga.workflows.prepare import prepare
    from kdiga.workflows.train import run_recipe

    output = Output(json_file, quiet=quiet)
    console = output.console
    checked = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / recipe.stem
    trackers = Trackers(
        [name.strip().lower() for name in track.split(",") if name.strip()],
        folder,
        checked.to_dict(),
        project=track_project,
        on_trouble=lambda line: say(console, line, style="yellow"),
    )
    run = prepare(checked)
    tell_notes(console, run.data)
    if dry_run:
        console.print(
            yaml.safe_dump(checked.to_dict(), sort_keys=False).rstrip(), markup=False, highlight=False, soft_wrap=True
        )
        _inspect(console, run, despite_findings=despite_findings)
        console.print(
            f"# data: {described(run.data)}, {run.data.source}", markup=False, highlight=False, soft_wrap=True
        )
        if checked.cache is not None and stored_teacher(run) is not None:
            console.print(f"# teacher cache: {checked.cache.folder}, complete", highlight=False, soft_wrap=True)
        console.print(f"# would write to {folder}", highlight=False, soft_wrap=True)
        output.result({"kind": "dry-run", "folder": str(folder), "recipe": checked.to_dict()})
        return
    if not resume:
        _inspect(console, run, despite_findings=despite_findings)

    def on_epoch(record: EpochRecord) -> None:
        progress.on_epoch(record)
        trackers.on_epoch(record)

    with TrainingProgress(console, checked.method.info.name, checked.training.epochs) as progress, trackers:
        result = run_recipe(
            run,
            folder,
            resume=resume,
            overwrite=overwrite,
            callbacks=TrainingCallbacks(progress.on_step, on_epoch, progress.on_choice, progress.on_warning),
        )
    _show(console, result, folder)
    output.result(result, folder)


def _show(console: Console, result: Mapping[str, Any], folder: Path) -> None:
    best, last = (result["validation"][which] for which in ("best", "last"))
    for which, record in (("best", best), ("last", last)):
        console.print(
            f"{which}: epoch {(record['epoch'] or 0) + 1}, validation clean {record['clean'] or 0:.1%}, PGD "
            f"{record['robust'] or 0:.1%}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{result['minutes'] or 0:.1f} minutes. Next: kdiga evaluate {folder} --attacks clean,pgd-20,autoattack",
        soft_wrap=True,
    )


def _inspect(console: Console, run: PreparedRun, *, despite_findings: bool) -> None:
    """Print what the models are, and stop at a teacher that fails a check."""
    from kdiga.workflows.inspect import check_teachers, inspect_recipe

    found = inspect_recipe(run.recipe, run.models, run.data.train)
    for role, inspection in found.items():
        tried = f", tried on {inspection.examples} training images" if inspection.examples else ""
        say(console, f"# {role}{tried}")
        for line in inspection.lines():
            say(console, f"#   {line}", style="yellow" if " failed: " in line else None)
    if not despite_findings:
        check_teachers(run.recipe, run.models, found)
