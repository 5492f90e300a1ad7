"""The paper's first claim on a laptop: a robust teacher, four students, the same attacks for all.

Digits of 8x8 pixels, Linf eps 0.1. KD has a temperature of 4: at the study's 1 it is plain training,
for this teacher is certain of every training image. Weight, distance and ramp of kdiga and tangent
were chosen on validation images of seeds 0 and 1; the test images took no part. docs/methods.md has
the tables.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.config import recipe_from_dict, run_recipe
from kdiga.data import load_data
from kdiga.evaluation import evaluate, sweep
from kdiga.gradients import input_gradient
from kdiga.models import count_parameters, load_model
from kdiga.provenance import provenance
from kdiga.training import EpochRecord
from kdiga.training.folder import claim, write_result
from kdiga.types import ThreatModel

DATA, THREAT = "digits", ThreatModel("linf", 0.1)
ATTACKS = ("clean", "pgd-40", "autoattack")
SWEEP_ATTACK, SWEEP_EPS = "pgd-20", (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3)
PICTURES = 6
EPOCHS = 30
TRAINING = {"epochs": EPOCHS, "batch_size": 64, "lr": 5e-3}


@dataclass(frozen=True)
class Member:
    """One model of the demo: how it is called, its architecture, its method with coefficients."""

    name: str
    model: dict[str, Any]
    method: dict[str, Any]


TEACHER = Member("teacher", {"name": "cnn-32"}, {"name": "pgd-at", "steps": 7})
STUDENTS = tuple(
    Member(str(method["name"]), {"name": "cnn-8", "activation": "silu"}, method)
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
) -> dict[str, Any]:
    """Train the five models, attack them, and write ``results.json`` and ``pictures.npz``.

    Args:
        out: folder for everything; each model's run is a folder in it.
        seed: of every run.
        examples: how many of the 360 test images are attacked; None for all.
        overwrite: replace an earlier demo in ``out``.
        on_step: steps of the teacher's training done, and in all.
        on_epoch: after each epoch of the teacher.
        on_job: what is worked on, jobs done and jobs in all, once the teacher is trained.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: if ``out`` already holds results and ``overwrite`` is not set.
    """
    started = time.perf_counter()
    claim(out, overwrite=overwrite)
    with _workers() as workers:
        # The plain student needs no teacher, so it keeps the second core busy meanwhile.
        early = {workers.submit(_train, member, out, seed, overwrite): member for member in STUDENTS if _alone(member)}
        with _one_thread():
            _train(TEACHER, out, seed, overwrite, on_step=on_step, on_epoch=on_epoch)
        # The teacher has by far the most parameters to attack, so its evaluation starts first.
        jobs = {workers.submit(_assess, TEACHER, out, seed, examples): TEACHER}
        training = early | {
            workers.submit(_train, member, out, seed, overwrite): member for member in STUDENTS if not _alone(member)
        }
        entries = _collect(workers, training, jobs, out, seed, examples, on_job)
    results = _results(entries, out, seed, time.perf_counter() - started)
    write_result(out, results, "results.json")
    _save_pictures(out)
    return results


def _alone(member: Member) -> bool:
    return member.method["name"] == "ce"


def _collect(
    workers: ProcessPoolExecutor,
    training: dict[Future[None], Member],
    assessing: dict[Future[dict[str, Any]], Member],
    out: Path,
    seed: int,
    examples: int | None,
    on_job: OnJob | None,
) -> dict[str, dict[str, Any]]:
    total, done = len(training) + len(STUDENTS) + 1, 0

    def tell(what: str) -> None:
        if on_job is not None:
            on_job(what, done, total)

    tell("training students")
    for future in as_completed(training):
        future.result()
        done += 1
        tell(f"trained {training[future].name}")
        assessing[workers.submit(_assess, training[future], out, seed, examples)] = training[future]
    entries: dict[str, dict[str, Any]] = {}
    for future in as_completed(assessing):
        entries[assessing[future].name] = future.result()
        done += 1
        tell(f"attacked {assessing[future].name}")
    return entries


def _train(member: Member, out: Path, seed: int, overwrite: bool, **listeners: Any) -> None:
    sections = {
        "data": DATA,
        "student": member.model,
        "method": member.method,
        "threat": {"norm": THREAT.norm, "eps": THREAT.eps},
        "training": TRAINING | {"seed": seed, "device": "cpu"},
    }
    if member.name != TEACHER.name and not _alone(member):
        sections["teacher"] = str(out / TEACHER.name)
    recipe = recipe_from_dict(sections)
    run_recipe(recipe, out / member.name, overwrite=overwrite, **listeners)


def _assess(member: Member, out: Path, seed: int, examples: int | None) -> dict[str, Any]:
    model = load_model(out / member.name)
    test = load_data(DATA).test
    report = evaluate(
        model, test.batches(), eps=THREAT.eps, norm=THREAT.norm, attacks=ATTACKS, examples=examples, seed=seed
    )
    images, labels = next(iter(test.batches(len(test), examples=examples)))
    return {
        "name": member.name,
        "method": member.method["name"],
        "settings": {key: value for key, value in member.method.items() if key != "name"},
        "architecture": "-".join([model.spec.name, *([model.spec.activation] if model.spec.activation else [])]),
        "parameters": count_parameters(model),
        "weights": f"{member.name}/best.safetensors",
        **{attack: report[attack] for attack in ATTACKS},
        "interval_95": {attack: list(report.results[attack].interval) for attack in ATTACKS},
        "gradient_cosine": _cosine(model, load_model(out / TEACHER.name), images, labels),
        "notes": [note for result in report.results.values() for note in result.notes],
        "examples": report.examples,
        "curve": sweep(
            model, [(images, labels)], eps_values=SWEEP_EPS, norm=THREAT.norm, attack=SWEEP_ATTACK, seed=seed
        ).accuracy,
    }


def _cosine(model: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the mean cosine between the input gradients of two models."""
    ours, theirs = (input_gradient(one, images, labels).flatten(1).double() for one in (model, teacher))
    # float64: a confident model's gradient is small enough for its squares to vanish in float32.
    return float(F.cosine_similarity(ours, theirs, eps=1e-30).mean())


def _results(entries: dict[str, dict[str, Any]], out: Path, seed: int, seconds: float) -> dict[str, Any]:
    about = provenance()
    curves = {name: entry.pop("curve") for name, entry in entries.items()}
    (test_images,) = {entry.pop("examples") for entry in entries.values()}
    return {
        "title": "kdiga demo",
        "data": DATA,
        "threat_model": {"norm": THREAT.norm, "eps": THREAT.eps},
        "test_images": test_images,
        "seed": seed,
        "minutes": round(seconds / 60, 2),
        "models": [entries[member.name] for member in (TEACHER, *STUDENTS)],
        "curves": {"attack": SWEEP_ATTACK, "eps": list(SWEEP_EPS), "accuracy": curves},
        "pictures": "pictures.npz",
        "training": TRAINING,
        "command": f"kdiga demo --seed {seed} --out {out}",
        **about,
    }


def _save_pictures(out: Path) -> None:
    """Write the first test images of different classes and every model's input gradient there."""
    test = load_data(DATA).test
    rows = torch.tensor([int((test.labels == label).nonzero()[0]) for label in range(PICTURES)])
    images, labels = next(iter(test.take(rows).batches()))
    gradients = {
        member.name: input_gradient(load_model(out / member.name), images, labels).numpy()
        for member in (TEACHER, *STUDENTS)
    }
    arrays: dict[str, Any] = {"images": images.numpy(), "labels": labels.numpy(), **gradients}
    np.savez_compressed(out / "pictures.npz", **arrays)


@contextmanager
def _workers() -> Generator[ProcessPoolExecutor]:
    """Offer a process a core, each of one thread: nets this small gain nothing from more."""
    count = min(len(STUDENTS) + 1, os.cpu_count() or 1)
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
