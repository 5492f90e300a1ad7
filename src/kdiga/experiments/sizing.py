"""The cost of all runs of an experiment on this hardware: a few steps of each kind of run, and passes of attacks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdiga.data import DataSet
from kdiga.data.image_set import to_pixels
from kdiga.distributed.launch import one_thread
from kdiga.evaluation import attack_by_name
from kdiga.evaluation.measure import BATCH_SIZE
from kdiga.experiments.board import RunSpec
from kdiga.experiments.experiment import Experiment, check_models, with_known_teachers
from kdiga.experiments.sections import EvaluateSettings
from kdiga.model_state import frozen_parameters
from kdiga.recipes.schema import Recipe
from kdiga.runs.provenance import provenance
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import validation_subset
from kdiga.workflows.prepare import build_model, prepare
from kdiga.workflows.profile import checks_of, run_cost

OnPart = Callable[[str, int, int], None]


def size_runs(
    experiment: Experiment, data: DataSet, *, steps: int = 5, on_part: OnPart | None = None
) -> dict[str, Any]:
    """Measure what the runs of an experiment would cost; nothing is trained or written.

    Runs that differ only in seed, epochs and coefficients are measured once, by some steps of each. Of the experiment's
    own teachers the architecture alone is needed. On a CPU one thread computes, as in each of several workers. Attacks
    are counted by their passes through the network, as if every image withstood every attack; their other work, and
    further measurements of a student, are not included. ``on_part`` is called before each measurement with its name,
    the number that is done, and the number in all.

    Returns:
        dict: Plain data: ``training``, a row a kind of run with hours of all its runs; ``attacks``, a row a network;
            their sums in hours, as if one run followed the other; and where it was measured.
    """
    run_specs = experiment.run_specs
    check_models(run_specs, experiment.out, data)  # before minutes of measuring the models that can be built
    planned = list(zip(run_specs, with_known_teachers(run_specs, experiment.out), strict=True))
    trained, attacked = _alike(planned, _training_of), _alike(planned, _network_of)
    on_part = on_part or (lambda what, done, total: None)
    training, attacks = list[dict[str, Any]](), list[dict[str, Any]]()
    device, total = device_by_name(planned[0][1].training.device), len(trained) + len(attacked)
    with one_thread() if device.type == "cpu" else nullcontext():
        for alike, recipe in trained:
            on_part(alike[0].label, len(training), total)
            training.append(_training_row(alike, recipe, data, steps))
        for alike, recipe in attacked:
            on_part(f"attacks on {recipe.student.name}", len(training) + len(attacks), total)
            attacks.append(_attack_row(alike, recipe, experiment.evaluation, data, steps))
    rows = {"training": training, "attacks": attacks}
    return {
        "kind": "sizing",
        "runs": len(planned),
        **rows,
        "hours": {name: sum(row["hours"] for row in those) for name, those in rows.items()},
        "provenance": provenance(device),
    }


def _alike(
    planned: Sequence[tuple[RunSpec, Recipe]], key: Callable[[RunSpec, Recipe], str | None]
) -> list[tuple[list[RunSpec], Recipe]]:
    """Return runs of one key together, with the first one's recipe; those without a key are left out."""
    found: dict[str, tuple[list[RunSpec], Recipe]] = {}
    for run_spec, recipe in planned:
        if (kind := key(run_spec, recipe)) is not None:
            found.setdefault(kind, ([], recipe))[0].append(run_spec)
    return list(found.values())


def _training_of(run_spec: RunSpec, recipe: Recipe) -> str | None:
    """Return what decides the cost of a run's steps; None where nothing is trained."""
    if not run_spec.is_trained:
        return None
    training = replace(recipe.training, seed=0, epochs=1, lr=1.0)
    return repr((run_spec.label, recipe.student, recipe.teacher, recipe.second_teacher, training))


def _network_of(run_spec: RunSpec, recipe: Recipe) -> str | None:
    """Return the network that is attacked; None where none is."""
    return repr(recipe.student) if run_spec.which else None


def _training_row(run_specs: Sequence[RunSpec], recipe: Recipe, data: DataSet, steps: int) -> dict[str, Any]:
    cost = run_cost(prepare(recipe, data), steps=steps)
    epochs = sum(run_spec.recipe.all_epochs for run_spec in run_specs)
    checks = sum(checks_of(run_spec.recipe) for run_spec in run_specs)
    teachers = dict.fromkeys(name for run_spec in run_specs if (name := _teacher_of(run_spec)))
    return {
        "label": run_specs[0].label,
        "student": recipe.student.name,
        "teacher": ", ".join(teachers) or None,
        "runs": len(run_specs),
        "epochs": epochs,
        "runs_as": cost.label,
        "step_seconds": cost.seconds,
        "steps": epochs * cost.steps,
        "check_seconds": cost.check_seconds,
        "checks": checks,
        "hours": (epochs * cost.steps * cost.seconds + checks * cost.check_seconds) / 3600,
    }


def _teacher_of(run_spec: RunSpec) -> str | None:
    if run_spec.needs:
        return ", ".join(Path(name).name for name in run_spec.needs)
    return None if run_spec.recipe.teacher is None else run_spec.recipe.teacher.name


def _attack_row(
    run_specs: Sequence[RunSpec], recipe: Recipe, evaluation: EvaluateSettings, data: DataSet, steps: int
) -> dict[str, Any]:
    models = sum(len(run_spec.which) for run_spec in run_specs)
    asked = [(evaluation.examples_of(name, len(data.test)), *_passes(name)) for name in evaluation.attacks]
    forward, backward = _pass_seconds(recipe, data, min(images for images, _, _ in asked), steps)
    seconds = sum(images * (forward * ahead + backward * back) for images, ahead, back in asked)
    return {
        "student": recipe.student.name,
        "models": models,
        "forward_seconds": forward,
        "backward_seconds": backward,
        "hours": models * seconds / 3600,
    }


def _passes(name: str) -> tuple[int, int]:
    """Return the passes forward and backward of an attack on an image that withstands it; the first one is clean."""
    attack = attack_by_name(name)
    stages = () if attack is None else attack.stages
    return 1 + sum(stage.forwards for stage in stages), sum(stage.backwards for stage in stages)


def _pass_seconds(recipe: Recipe, data: DataSet, images: int, steps: int) -> tuple[float, float]:
    """Return the seconds of a forward pass, and of a backward pass to the images, an image, in batches of an attack."""
    device = device_by_name(recipe.training.device)
    student = build_model(recipe.student, data.train).to(device).eval()
    batch = to_pixels(validation_subset(data.test, min(images, BATCH_SIZE)).to(device).images)

    def forward() -> None:
        with torch.no_grad():
            student(batch)

    def forward_and_backward() -> None:
        moved = batch.requires_grad_()
        torch.autograd.grad(student(moved).sum(), moved)

    with frozen_parameters(student):
        ahead, both = (_median_seconds(one, device, steps) / len(batch) for one in (forward, forward_and_backward))
    return ahead, max(both - ahead, 0.0)


def _median_seconds(work: Callable[[], None], device: torch.device, steps: int) -> float:
    seconds = list[float]()
    for _ in range(1 + steps):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])
