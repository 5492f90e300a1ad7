"""``kdiga profile`` of a study or of a test of claims: what all its runs take here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kdiga.cli.printing import duration, print_table, say, tell_notes
from kdiga.cli.progress import JobProgress
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.executors import default_workers
from kdiga.experiments.sizing import size_runs
from kdiga.experiments.study import load_study
from kdiga.recipes.source import STUDY, FileKind
from kdiga.workflows.prepare import load_recipe_data

TRAINING = ("training", "student", "learns from", "as", "runs", "epochs", "step, ms", "takes")
ATTACKS = ("attacks on", "models", "forward, us an image", "backward, us an image", "takes at most")
WORDS = TRAINING[:4] + ATTACKS[:1]


def sized(console: Console, recipe: Path, overrides: Sequence[str], kind: FileKind, steps: int) -> dict[str, Any]:
    """Return what :func:`kdiga.experiments.sizing.size_runs` finds, with its progress."""
    checked = (load_study if kind is STUDY else load_claims)(recipe, None, overrides)
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    tell_notes(console, data)
    with JobProgress(console, "profiling") as progress:
        return size_runs(checked, data, steps=steps, on_part=progress)


def show_sizes(console: Console, found: dict[str, Any]) -> None:
    """Print the measurements and their sums."""
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
    _print(console, TRAINING, training)
    _print(console, ATTACKS, attacks)
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
    say(console, "Certificates, explanations, and the work of attacks outside the network are not in it.")


def _print(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="left" if heading in WORDS else "right")
    for row in rows:
        table.add_row(*row)
    print_table(console, table)
