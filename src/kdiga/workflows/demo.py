"""The paper's first claim on a laptop: a robust teacher, four students, the same attacks for all.

Digits of 8x8 pixels, Linf eps 0.1. KD has a temperature of 4: at the study's 1 it is plain training,
for this teacher is certain of every training image. Weight, distance and ramp of kdiga and tangent
were chosen on validation images of seeds 0 and 1; the test images took no part. docs/methods.md has
the tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

from kdiga.data import load_data
from kdiga.distributed.launch import one_thread
from kdiga.distributed.worker_processes import LocalExecutor
from kdiga.recipes.validate import recipe_from_dict
from kdiga.results.shared import command_of
from kdiga.runs.run_folder import prepare_run_folder
from kdiga.training.loop import TrainingCallbacks
from kdiga.types import ThreatModel
from kdiga.workflows.evaluate import run_evaluation
from kdiga.workflows.explain import explain_runs
from kdiga.workflows.prepare import prepare
from kdiga.workflows.requests import DemoRequest, EvaluateRequest, ExplainRequest
from kdiga.workflows.train import run_recipe

DATA, THREAT = "digits", ThreatModel("linf", 0.1)
ATTACKS = ("clean", "pgd-40", "autoattack")
SWEEP = "0.025,0.05,0.075,0.1,0.125,0.15,0.2,0.25,0.3"
EPOCHS = 30
TRAINING = {"epochs": EPOCHS, "batch_size": 64, "lr": 5e-3}


@dataclass(frozen=True)
class DemoModel:
    """One model of the demo: its name, its architecture, its method with coefficients."""

    name: str
    model: dict[str, Any]
    method: dict[str, Any]


TEACHER = DemoModel("teacher", {"name": "cnn-32"}, {"name": "pgd-at", "steps": 7})
STUDENTS = tuple(
    DemoModel(str(method["name"]), {"name": "cnn-8", "activation": "silu"}, method)
    for method in (
        {"name": "ce"},
        {"name": "kd", "temperature": 4.0},
        {"name": "kdiga", "gradient_weight": 2.0, "distance": "l2-squared"},
        {"name": "tangent", "gap_weight": 3.0, "ramp": 0.1},
    )
)

OnTeacher = Callable[[int, int], None]
OnJob = Callable[[str, int, int], None]


def run_demo(
    request: DemoRequest,
    *,
    on_step: OnTeacher | None = None,
    on_job: OnJob | None = None,
) -> list[dict[str, Any]]:
    """Train the five models, evaluate each, and explain the students by their teacher.

    The run of each model is a folder in the folder. Steps are those of the teacher; jobs follow once it is trained.

    Returns:
        Content of each model's ``evaluation.json``, with the model's name; the teacher first.

    Raises:
        InputError: If the folder already holds a demo and ``overwrite`` is not set.
    """
    prepare_run_folder(request.out, overwrite=request.overwrite)
    for member in (TEACHER, *STUDENTS):
        prepare_run_folder(request.out / member.name, overwrite=request.overwrite)
    with LocalExecutor(_processes()) as workers:  # one thread each: networks this small gain nothing from more
        # The plain student needs no teacher, so it keeps the second core busy meanwhile.
        plain, *others = STUDENTS
        early = workers.submit(_train, plain, request)
        _train(TEACHER, request, on_step=on_step)
        # The teacher has by far the most parameters to attack, so its evaluation starts first.
        jobs = {workers.submit(_judge, TEACHER, request): TEACHER}
        jobs |= {workers.submit(_train_and_judge, member, request): member for member in others}
        early.result()
        jobs[workers.submit(_judge, plain, request)] = plain
        on_job = on_job or (lambda what, done, total: None)
        on_job("training students", 0, len(jobs) + 1)
        found: dict[str, dict[str, Any]] = {}
        for future in as_completed(jobs):
            name = jobs[future].name
            found[name] = future.result()
            on_job(f"trained and attacked {name}", len(found), len(jobs) + 1)
        # In all processes: they share its work units.
        for future in as_completed([workers.submit(_explain, request) for _ in range(_processes())]):
            future.result()
        on_job("explained the students by their teacher", len(jobs) + 1, len(jobs) + 1)
    return [{"name": member.name, **found[member.name]} for member in (TEACHER, *STUDENTS)]


def _train_and_judge(member: DemoModel, request: DemoRequest) -> dict[str, Any]:
    _train(member, request)
    return _judge(member, request)


def _train(member: DemoModel, request: DemoRequest, **listeners: Any) -> None:
    sections = {
        "data": DATA,
        "student": member.model,
        "method": member.method,
        "threat": {"norm": THREAT.norm, "eps": THREAT.eps},
        "training": TRAINING | {"seed": request.seed, "device": "cpu"},
    }
    if member not in (TEACHER, STUDENTS[0]):
        sections["teacher"] = str(request.out / TEACHER.name)
    recipe = recipe_from_dict(sections)
    callbacks = TrainingCallbacks(**listeners)
    with one_thread():
        run_recipe(prepare(recipe), request.out / member.name, overwrite=request.overwrite, callbacks=callbacks)


def _judge(member: DemoModel, request: DemoRequest) -> dict[str, Any]:
    folder, seed = str(request.out / member.name), request.seed
    teacher = None if member == TEACHER else str(request.out / TEACHER.name)
    evaluation = EvaluateRequest(
        model=folder,
        attacks=ATTACKS,
        examples=request.examples,
        seed=seed,
        device="cpu",
        sweep=SWEEP,
        checks=True,
        teacher=teacher,
        overwrite=request.overwrite,
    )
    options = {"attacks": ",".join(ATTACKS), "sweep": SWEEP, "seed": seed}
    command = command_of("evaluate", folder, **options, teacher=teacher, examples=request.examples)
    with one_thread():
        return run_evaluation(evaluation, command=command).content


def _explain(request: DemoRequest) -> None:
    teacher, *students = (str(request.out / member.name) for member in (TEACHER, *STUDENTS))
    examples = len(load_data(DATA).test) if request.examples is None else request.examples
    explanation = ExplainRequest(
        teacher=teacher,
        students=students,
        out=request.out,
        examples=examples,
        seed=request.seed,
        device="cpu",
        overwrite=request.overwrite,
    )
    command = command_of("explain", teacher, *students, examples=examples, seed=request.seed, out=request.out)
    with one_thread():
        explain_runs(explanation, command=command)


def _processes() -> int:
    return min(len(STUDENTS) + 1, os.cpu_count() or 1)
