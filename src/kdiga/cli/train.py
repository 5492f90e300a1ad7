"""``kdiga train RECIPE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import data_line, say, say_notes
from kdiga.statistics import percent
from kdiga.workflows.options import DryRun, Option, RecipeName, Settings, comma_separated_or_none

if TYPE_CHECKING:
    from rich.console import Console

    from kdiga.training import EpochRecord
    from kdiga.workflows.prepare import PreparedRun


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A run of a recipe."""

    recipe: RecipeName
    settings: Settings = ()
    out: Annotated[Path | None, Option("Run folder. Default: runs/<recipe name>.")] = None
    device: Annotated[
        str | None, Option("auto, cpu or cuda. Default: the recipe's.", names=("auto", "cpu", "cuda"))
    ] = None
    dry_run: DryRun = False
    resume: Annotated[bool, Option("Continue the run in the run folder.")] = False
    overwrite: Annotated[bool, Option("Replace the run in the run folder.")] = False
    despite_findings: Annotated[bool, Option("Train even if a check of the teacher failed.")] = False
    track: Annotated[
        Sequence[str],
        Option(
            "Follow the run in tensorboard, wandb or both; see docs/export.md.",
            metavar="NAME,NAME",
            read=comma_separated_or_none,
        ),
    ] = ()
    track_project: Annotated[str, Option("Project of the run in trackers.")] = "kdiga"


@command()
def train(request: TrainRequest, output: Output) -> None:
    """Train a teacher or distil a student as a recipe says.

    Before training, it describes the models and tests trained ones on 128 training images. It stops if a teacher has
    the wrong preprocessing, input size or order of classes.

    Example: kdiga train recipes/digits-kdiga.yaml --set training.seed=1 --out runs/seed1
    """
    import yaml

    from kdiga.cli.progress import TrainingProgress
    from kdiga.recipes.validate import load_recipe
    from kdiga.runs.run_folder import RESULT
    from kdiga.training.loop import TrainingCallbacks
    from kdiga.training.resume import FILE as STATE
    from kdiga.training.tracking import Trackers
    from kdiga.workflows.cache import stored_teacher
    from kdiga.workflows.prepare import prepare
    from kdiga.workflows.train import run_recipe

    console = output.console
    device = () if request.device is None else (f"training.device={request.device}",)
    recipe = load_recipe(request.recipe, (*request.settings, *device))
    folder = request.out or Path("runs") / request.recipe.stem
    trackers = Trackers(
        [name.lower() for name in request.track if name],
        folder,
        recipe.to_dict(),
        project=request.track_project,
        on_trouble=lambda line: say(console, line, style="yellow"),
    )
    run = prepare(recipe)
    say_notes(console, run.data)
    if request.dry_run:
        say(console, yaml.safe_dump(recipe.to_dict(), sort_keys=False).rstrip())
        _inspect(console, run, despite_findings=request.despite_findings)
        say(console, f"# data: {data_line(run.data)}, {run.data.source}")
        if recipe.cache is not None and stored_teacher(run) is not None:
            say(console, f"# teacher cache: {recipe.cache.folder}, complete")
        say(console, f"# would write to {folder}")
        output.result({"kind": "dry-run", "folder": str(folder), "recipe": recipe.to_dict()})
        return
    if not (request.resume and any((folder / name).is_file() for name in (RESULT, STATE))):
        _inspect(console, run, despite_findings=request.despite_findings)

    def on_epoch(record: EpochRecord) -> None:
        progress.on_epoch(record)
        trackers.on_epoch(record)

    with TrainingProgress(console, recipe.method.info.name, recipe.training.epochs) as progress, trackers:
        result = run_recipe(
            run,
            folder,
            resume=request.resume,
            overwrite=request.overwrite,
            callbacks=TrainingCallbacks(progress.on_step, on_epoch, progress.on_choice, progress.on_warning),
        )
    _show(console, result, folder, recipe.student.name)
    output.result(result, folder)


def _show(console: Console, result: Mapping[str, Any], folder: Path, student: str) -> None:
    for which in ("best", "last"):
        record = result["validation"][which]
        say(
            console,
            f"{which}: epoch {(record['epoch'] or 0) + 1}, validation clean {percent(record['clean'] or 0)}, PGD "
            f"{percent(record['robust'] or 0)}",
        )
    minutes = result["minutes"] or 0
    from kdiga.results.shared import command_of

    # A run folder alone runs no code of its student.
    own = (student, "--weights", folder / "best.safetensors") if student.startswith("python:") else (folder,)
    following = command_of("evaluate", *own, attacks="clean,pgd-20,autoattack")
    say(console, f"{minutes:.1f} minutes. Next: {following}")


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
