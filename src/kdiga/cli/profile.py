"""``kdiga profile RECIPE``, of one run or of all runs of a study."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, say_notes, show_table
from kdiga.errors import InputError
from kdiga.progress_bar import duration
from kdiga.workflows.options import Option, RecipeName, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from kdiga.recipes.source import FileKind

TRAINING = ("training", "student", "learns from", "as", "runs", "epochs", "step, ms", "takes")
ATTACKS = ("attacks on", "models", "forward, us per image", "backward, us per image", "takes at most")


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """Time of the steps of a recipe, study or claims recipe."""

    recipe: RecipeName
    settings: Settings = ()
    steps: Annotated[int, Option("Number of measured steps per variant.", least=1)] = 5
    compiled: Annotated[bool, Option("Also with torch.compile; takes minutes.")] = False


@command()
def profile(request: ProfileRequest, output: Output) -> None:
    """Time a recipe's training steps on every route.

    It trains nothing.

    For a study or a test of claims it shows how long all its runs would take here.

    Example: kdiga profile recipes/digits-kdiga.yaml --json profile.json
    """
    # Before PyTorch is loaded: its profiler, which follows the memory, would write to the terminal.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from kdiga.recipes.source import RECIPE, kind_of, read_source

    kind = kind_of(read_source(request.recipe, request.settings, RECIPE).data)
    if kind is RECIPE:
        found = _profile_run(output.console, request)
        _show_run(output.console, found)
    else:
        if request.compiled:
            raise InputError(
                f"--compiled is for a recipe of one run, and {str(request.recipe)!r} is a {kind.name}; leave it out."
            )
        found = _profile_study(output.console, request, kind)
        _show_study(output.console, found)
    output.result(found)


def _profile_run(console: Console, request: ProfileRequest) -> dict[str, Any]:
    from kdiga.cli.progress import JobProgress
    from kdiga.recipes.validate import load_recipe
    from kdiga.workflows.prepare import prepare
    from kdiga.workflows.profile import profile_recipe

    run = prepare(load_recipe(request.recipe, request.settings))
    say_notes(console, run.data)
    with JobProgress(console, "profiling") as progress:
        return profile_recipe(run, steps=request.steps, compiled=request.compiled, on_variant=progress)


def _show_run(console: Console, found: dict[str, Any]) -> None:
    show_table(console, *_variants_table(found))
    if found["route"]["chosen"] is not None:
        say(console, f"route auto takes {found['route']['chosen']}: {found['route']['why']}.")
    say(
        console,
        f"{found['steps']} steps of {found['batch_size']} examples in all; validation adds "
        f"{found['validation_minutes']:.1f} minutes. Columns after the step are its parts in milliseconds.",
    )
    whole, machine = found["whole_run"], found["provenance"]["hardware"]
    where = machine["accelerator"] or f"{machine['threads']} threads of {machine['processor']}"
    say(console, f"The whole run, {whole['label']}, takes {whole['hours']:.3g} hours with its checks on {where}.")


def _variants_table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    variants = found["variants"]
    sections = [name for name in variants[0]["sections"] if any(one["sections"][name] for one in variants)]
    rows = [
        [
            one["label"],
            f"{1000 * one['seconds']:.1f}",
            *(f"{1000 * one['sections'][name]:.1f}" for name in sections),
            f"{one['peak_bytes'] / 1e6:.0f}",
            f"{one['examples_per_second']:.0f}",
            f"{one['minutes']:.1f}",
        ]
        for one in variants
    ]
    return ["variant", "step, ms", *sections, "peak, MB", "examples/s", "run, min"], rows


def _profile_study(console: Console, request: ProfileRequest, kind: FileKind) -> dict[str, Any]:
    from kdiga.cli.progress import JobProgress
    from kdiga.experiments.claims.claims import load_claims
    from kdiga.experiments.sizing import size_runs
    from kdiga.experiments.study import load_study
    from kdiga.recipes.source import STUDY
    from kdiga.workflows.prepare import load_recipe_data

    checked = (load_study if kind is STUDY else load_claims)(request.recipe, None, request.settings)
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    say_notes(console, data)
    with JobProgress(console, "profiling") as progress:
        return size_runs(checked, data, steps=request.steps, on_part=progress)


def _show_study(console: Console, found: dict[str, Any]) -> None:
    from kdiga.experiments.executors import default_workers

    training = [
        (
            row["label"],
            row["student"],
            row["teacher"] or "",
            row["runs_as"],
            str(row["runs"]),
            str(row["epochs"]),
            f"{1000 * row['step_seconds']:.1f}",
            duration(3600 * row["hours"]),
        )
        for row in found["training"]
    ]
    attacks = [
        (
            row["student"],
            str(row["models"]),
            f"{1e6 * row['forward_seconds']:.3g}",
            f"{1e6 * row['backward_seconds']:.3g}",
            duration(3600 * row["hours"]),
        )
        for row in found["attacks"]
    ]
    show_table(console, TRAINING, training, words=TRAINING[:4])
    show_table(console, ATTACKS, attacks)
    machine = found["provenance"]["hardware"]
    hours = {name: duration(3600 * hours) for name, hours in found["hours"].items()}
    say(
        console,
        f"All {found['runs']} runs, one after the other: {hours['training']} of training with its checks, and at most "
        f"{hours['attacks']} of attacks, as if every image withstood every one, on "
        f"{machine['accelerator'] or 'one thread of ' + machine['processor']}.",
    )
    if machine["accelerator"] is None and default_workers() > 1:
        say(console, f"Divide by {default_workers()} for as many workers as there are cores.")
    say(console, "Certificates, explanations, and the computations of attacks outside the network are not included.")
