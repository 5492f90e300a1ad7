"""What all runs of a study cost on the hardware at hand: a few steps of each kind of run, and the passes of attacks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdiga.config import Recipe
from kdiga.config.profiling import checks_of, run_cost
from kdiga.config.run import build_models
from kdiga.data import DataSet
from kdiga.data.files import FileSet
from kdiga.data.images import to_pixels
from kdiga.evaluation import attack_by_name
from kdiga.evaluation.evaluate import BATCH_SIZE
from kdiga.modes import frozen_parameters
from kdiga.provenance import provenance
from kdiga.study.cells import Cell
from kdiga.study.check import with_known_teachers
from kdiga.study.settings import EvaluateSettings
from kdiga.threads import one_thread
from kdiga.training.runtime import device_by_name

OnPart = Callable[[str, int, int], None]


def size_runs(
    cells: Sequence[Cell], out: Path, evaluation: EvaluateSettings, data: DataSet, *, steps: int = 5,
    on_part: OnPart | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure what the runs of a study or a test of claims would cost; nothing is trained or written.

    Runs that differ only in seed, epochs and coefficients are measured once. Of the study's own teachers the
    architecture alone is needed. On a CPU one thread computes, as in each of several workers. Attacks are counted by
    their passes through the network, as if every image withstood every attack; what they compute beside, and what else
    is found out of a student, is not in it.

    Args:
        cells: of every run.
        out: folder that the study would have.
        evaluation: how models are attacked.
        data: that the runs share.
        steps: measured for each kind of run.
        on_part: told of each measurement, how many are done, and in all.

    Returns:
        dict: plain data: ``training``, a row a kind of run with hours of all its runs; ``attacks``, a row a network;
            their sums in hours, as if one run went after the other; and where it was measured.

    Raises:
        InputError: as the runs would.
    """
    recipes = with_known_teachers(cells, out)
    trained, attacked = _groups(cells, recipes), _networks(cells, recipes)
    told = on_part or (lambda what, done, total: None)
    training, attacks = list[dict[str, Any]](), list[dict[str, Any]]()
    device, total = device_by_name(recipes[0].training.device), len(trained) + len(attacked)
    with one_thread() if device.type == "cpu" else nullcontext():
        for group in trained:
            told(cells[group[0]].label, len(training), total)
            training.append(_training_row([cells[place] for place in group], recipes[group[0]], data, steps))
        for group in attacked:
            told(f"attacks on {recipes[group[0]].student.name}", len(training) + len(attacks), total)
            attacks.append(_attack_row([cells[place] for place in group], recipes[group[0]], evaluation, data, steps))
    hours = {"training": training, "attacks": attacks}
    return {
        "kind": "sizing", "runs": len(cells), **hours,
        "hours": {name: sum(row["hours"] for row in rows) for name, rows in hours.items()},
        "provenance": provenance(device),
    }  # fmt: skip


def _groups(cells: Sequence[Cell], recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return the places of cells whose steps cost the same, those that are trained."""
    found: dict[str, list[int]] = {}
    for place, (cell, recipe) in enumerate(zip(cells, recipes, strict=True)):
        if cell.kind != "start":
            training = replace(recipe.training, seed=0, epochs=1, lr=1.0)
            models = (recipe.student, recipe.teacher, recipe.second_teacher)
            found.setdefault(repr((cell.label, models, training)), []).append(place)
    return list(found.values())


def _networks(cells: Sequence[Cell], recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return the places of cells that are attacked, those of one network together."""
    found: dict[str, list[int]] = {}
    for place, (cell, recipe) in enumerate(zip(cells, recipes, strict=True)):
        if cell.which:
            found.setdefault(repr(recipe.student), []).append(place)
    return list(found.values())


def _training_row(group: Sequence[Cell], recipe: Recipe, data: DataSet, steps: int) -> dict[str, Any]:
    cost = run_cost(recipe, data, steps=steps)
    epochs = sum(cell.recipe.training.epochs for cell in group)
    checks = sum(checks_of(cell.recipe.training) for cell in group)
    return {
        "label": group[0].label, "student": recipe.student.name,
        "teacher": _taught_by(group[0]), "runs": len(group), "epochs": epochs,
        "runs_as": cost.label, "step_seconds": cost.seconds, "steps": epochs * cost.steps,
        "check_seconds": cost.check_seconds, "checks": checks,
        "hours": (epochs * cost.steps * cost.seconds + checks * cost.check_seconds) / 3600,
    }  # fmt: skip


def _taught_by(cell: Cell) -> str | None:
    if cell.needs:
        return ", ".join(Path(name).name for name in cell.needs)
    return None if cell.recipe.teacher is None else cell.recipe.teacher.name


def _attack_row(
    group: Sequence[Cell], recipe: Recipe, evaluation: EvaluateSettings, data: DataSet, steps: int
) -> dict[str, Any]:
    models = sum(len(cell.which) for cell in group)
    asked = [(evaluation.examples_of(name, len(data.test)), *_passes(name)) for name in evaluation.attacks]
    forward, backward = _pass_seconds(recipe, data, min(images for images, _, _ in asked), steps)
    seconds = sum(images * (forward * ahead + backward * back) for images, ahead, back in asked)
    return {
        "student": recipe.student.name, "models": models, "forward_seconds": forward, "backward_seconds": backward,
        "hours": models * seconds / 3600,
    }  # fmt: skip


def _passes(name: str) -> tuple[int, int]:
    """Return the passes forward and backward of an attack on an image that withstands it; the first one is clean."""
    attack = attack_by_name(name)
    stages = () if attack is None else attack.stages
    return 1 + sum(stage.forwards for stage in stages), sum(stage.backwards for stage in stages)


def _pass_seconds(recipe: Recipe, data: DataSet, images: int, steps: int) -> tuple[float, float]:
    """Return the seconds of a forward pass, and of a backward pass to the images, an image, in batches of an attack."""
    device = device_by_name(recipe.training.device)
    student = build_models(recipe, data).student.to(device).eval()
    part = data.test.take(slice(min(images, BATCH_SIZE)))
    batch = to_pixels((part.load() if isinstance(part, FileSet) else part).to(device).images)

    def forward() -> None:
        with torch.no_grad():
            student(batch)

    def both() -> None:
        moved = batch.requires_grad_()
        torch.autograd.grad(student(moved).sum(), moved)

    with frozen_parameters(student):
        ahead, whole = (_median(taken, device, steps) / len(batch) for taken in (forward, both))
    return ahead, max(whole - ahead, 0.0)


def _median(taken: Callable[[], None], device: torch.device, steps: int) -> float:
    seconds = list[float]()
    for _ in range(1 + steps):
        begun = time.perf_counter()
        taken()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])
