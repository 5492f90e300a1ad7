"""``kdiga profile RECIPE``, of one run or of all those of a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app
from kdiga.cli.completion import recipe_keys, recipe_names
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import print_table, say, tell_notes
from kdiga.errors import InputError


@app.command()
def profile(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A recipe, study or claims recipe: a YAML file, or a name that kdiga recipes lists.",
            autocompletion=recipe_names,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key: training.batch_size=64.", autocompletion=recipe_keys
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Measured for each variant.")] = 5,
    compiled: Annotated[bool, typer.Option("--compiled", help="Also by torch.compile; takes minutes.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say where the time of a recipe's training steps goes, on every route side by side, without training.

    Of a study or a test of claims: how long all its runs would take here.

    Example: kdiga profile recipes/digits-kdiga.yaml --json profile.json
    """
    # Before PyTorch is loaded: its profiler, which follows the memory, would write to the terminal.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from kdiga.recipes.source import RECIPE, kind_of, read_source

    output, overrides = Output(json_file, quiet=quiet), settings or []
    kind = kind_of(read_source(recipe, overrides, RECIPE).data)
    if kind is not RECIPE:
        from kdiga.cli.profile_study import show_sizes, sized

        if compiled:
            raise InputError(
                f"--compiled is for a recipe of one run, and {str(recipe)!r} is a {kind.name}; leave it out."
            )
        found = sized(output.console, recipe, overrides, kind, steps)
        show_sizes(output.console, found)
        output.result(found)
        return
    from kdiga.cli.progress import JobProgress
    from kdiga.recipes.load import load_recipe
    from kdiga.workflows.prepare import prepare
    from kdiga.workflows.profile import profile_recipe

    checked = load_recipe(recipe, overrides)
    run = prepare(checked)
    tell_notes(output.console, run.data)
    with JobProgress(output.console, "profiling") as progress:
        found = profile_recipe(run, steps=steps, compiled=compiled, on_variant=progress)
    _show(output.console, found)
    output.result(found)


def _show(console: Console, found: dict[str, Any]) -> None:
    print_table(console, _table(found))
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


def _table(found: dict[str, Any]) -> Table:
    rows = found["variants"]
    shown = [name for name in rows[0]["sections"] if any(one["sections"][name] for one in rows)]
    table = Table()
    for heading in ("variant", "step, ms", *shown, "peak, MB", "examples/s", "run, min"):
        table.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    for one in rows:
        parts = (f"{1000 * one['sections'][name]:.1f}" for name in shown)
        table.add_row(
            one["label"],
            f"{1000 * one['seconds']:.1f}",
            *parts,
            f"{one['peak_bytes'] / 1e6:.0f}",
            f"{one['examples_per_second']:.0f}",
            f"{one['minutes']:.1f}",
        )
    return table
