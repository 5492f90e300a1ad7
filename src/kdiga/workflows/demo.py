"""The paper's first claim on a laptop: a robust teacher, four students, the same attacks for all.

Digits of 8x8 pixels, Linf eps 0.1. KD has a temperature of 4: at the study's 1 it is plain training,
for this teacher is certain of every training image. Weight, distance and ramp of kdiga and tangent
were chosen on validation images of seeds 0 and 1; the test images took no part. docs/methods.md has
the tables.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdiga.data import load_data
from kdiga.distributed.launch import one_thread
from kdiga.recipes.load import recipe_from_dict
from kdiga.runs.folder import prepare_run_folder
from kdiga.training import EpochRecord
from kdiga.training.loop import TrainingCallbacks
from kdiga.types import ThreatModel
from kdiga.workflows.evaluate import EvaluateRequest, run_evaluation
from kdiga.workflows.explain import ExplainRequest, explain_runs
from kdiga.workflows.prepare import prepare
from kdiga.workflows.train import run_recipe

DATA, THREAT = "digits", ThreatModel("linf", 0.1)
ATTACKS = ("clean", "pgd-40", "autoattack")
SWEEP = "0.025,0.05,0.075,0.1,0.125,0.15,0.2,0.25,0.3"
EPOCHS = 30
TRAINING = {"epochs": EPOCHS, "batch_size": 64, "lr": 5e-3}


@dataclass(frozen=True)
class DemoModel:
    """One model of the demo: how it is called, its architecture, its method with coefficients."""

    name: str
    model: dict[str, Any]
    method: dict[str, Any]


@dataclass(frozen=True)
class DemoRequest:
    """What the user wants of the demo; see :func:`run_demo`."""

    out: Path
    seed: int
    examples: int | None
    overwrite: bool


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
    out: Path,
    *,
    seed: int = 0,
    examples: int | None = None,
    overwrite: bool = False,
    on_step: OnTeacher | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_job: OnJob | None = None,
) -> list[dict[str, Any]]:
    """Train the five models, judge each, and explain the students by their teacher.

    Args:
        out: folder for everything; each model's run, with its evaluation, is a folder in it.
        seed: of every run.
        examples: how many of the 360 test images are attacked; None for all.
        overwrite: replace an earlier demo in ``out``.
        on_step: steps of the teacher's training done, and in all.
        on_epoch: after each epoch of the teacher.
        on_job: what is worked on, jobs done and jobs in all, once the teacher is trained.

    Returns:
        What each model's ``evaluation.json`` holds, with the model's name; the teacher first.

    Raises:
        InputError: if ``out`` already holds a demo and ``overwrite`` is not set.
    """
    prepare_run_folder(out, overwrite=overwrite)
    for member in (TEACHER, *STUDENTS):
        prepare_run_folder(out / member.name, overwrite=overwrite)
    asked = DemoRequest(out, seed, examples, overwrite)
    with _workers() as workers:
        # The plain student needs no teacher, so it keeps the second core busy meanwhile.
        early = {workers.submit(_train, member, asked): member for member in STUDENTS if _alone(member)}
        with one_thread():
            _train(TEACHER, asked, on_step=on_step, on_epoch=on_epoch)
        # The teacher has by far the most parameters to attack, so its evaluation starts first.
        jobs = {workers.submit(_judge, TEACHER, asked): TEACHER}
        training = early | {workers.submit(_train, member, asked): member for member in STUDENTS if not _alone(member)}
        return _collect(workers, training, jobs, asked, on_job)


def _alone(member: DemoModel) -> bool:
    return member.method["name"] == "ce"


def _collect(
    workers: ProcessPoolExecutor,
    training: dict[Future[None], DemoModel],
    judging: dict[Future[dict[str, Any]], DemoModel],
    asked: DemoRequest,
    on_job: OnJob | None,
) -> list[dict[str, Any]]:
    total, done = len(training) + len(STUDENTS) + 2, 0

    def tell(what: str) -> None:
        if on_job is not None:
            on_job(what, done, total)

    tell("training students")
    for future in as_completed(training):
        future.result()
        done += 1
        tell(f"trained {training[future].name}")
        judging[workers.submit(_judge, training[future], asked)] = training[future]
    found: dict[str, dict[str, Any]] = {}
    for future in as_completed(judging):
        found[judging[future].name] = future.result()
        done += 1
        tell(f"attacked {judging[future].name}")
    # As many processes as there are: they share its portions.
    explaining = [workers.submit(_explain, asked) for _ in range(_processes())]
    for future in as_completed(explaining):
        future.result()
    done += 1
    tell("explained the students by their teacher")
    return [{"name": member.name, **found[member.name]} for member in (TEACHER, *STUDENTS)]


def _train(member: DemoModel, asked: DemoRequest, **listeners: Any) -> None:
    sections = {
        "data": DATA,
        "student": member.model,
        "method": member.method,
        "threat": {"norm": THREAT.norm, "eps": THREAT.eps},
        "training": TRAINING | {"seed": asked.seed, "device": "cpu"},
    }
    if member.name != TEACHER.name and not _alone(member):
        sections["teacher"] = str(asked.out / TEACHER.name)
    recipe = recipe_from_dict(sections)
    callbacks = TrainingCallbacks(**listeners)
    run_recipe(prepare(recipe), asked.out / member.name, overwrite=asked.overwrite, callbacks=callbacks)


def _judge(member: DemoModel, asked: DemoRequest) -> dict[str, Any]:
    folder = str(asked.out / member.name)
    options = ["--attacks", ",".join(ATTACKS), "--sweep", SWEEP, "--seed", str(asked.seed)]
    teacher = None if member.name == TEACHER.name else str(asked.out / TEACHER.name)
    if teacher is not None:
        options += ["--teacher", teacher]
    if asked.examples is not None:
        options += ["--examples", str(asked.examples)]
    request = EvaluateRequest(
        model=folder,
        attacks=ATTACKS,
        examples=asked.examples,
        seed=asked.seed,
        device="cpu",
        sweep=SWEEP,
        checks=True,
        teacher=teacher,
        overwrite=asked.overwrite,
    )
    return run_evaluation(request, command=shlex.join(["kdiga", "evaluate", folder, *options])).content


def _explain(asked: DemoRequest) -> None:
    teacher, *students = (str(asked.out / member.name) for member in (TEACHER, *STUDENTS))
    examples = len(load_data(DATA).test) if asked.examples is None else asked.examples
    question = ExplainRequest(
        teacher, students, asked.out, examples=examples, seed=asked.seed, device="cpu", overwrite=asked.overwrite
    )
    options = ["--examples", str(examples), "--seed", str(asked.seed), "--out", str(asked.out)]
    explain_runs(question, command=shlex.join(["kdiga", "explain", teacher, *students, *options]))


@contextmanager
def _workers() -> Generator[ProcessPoolExecutor]:
    """Offer a process a core, each of one thread: nets this small gain nothing from more."""
    pool = ProcessPoolExecutor(
        _processes(), mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _processes() -> int:
    return min(len(STUDENTS) + 1, os.cpu_count() or 1)
