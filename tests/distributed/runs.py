"""Whole runs by two processes, for the tests of this folder."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import kdiga
from kdiga.data import ImageSet
from kdiga.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from kdiga.distributed.rng_streams import RngStreams
from kdiga.errors import InputError, InterruptedRunError
from kdiga.gradients.routes import Exact
from kdiga.methods import available_methods, method_by_name
from kdiga.model_state import seeded
from kdiga.teachers import CachedTeacher
from kdiga.training.distiller import Distiller
from kdiga.training.interruption import SAVE, Interruption
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.training.validation import Scores, Validator
from kdiga.types import ThreatModel
from tests.distributed.work import batches, networks, train_all, train_more

THREAT = ThreatModel("linf", 0.1)
SETTINGS = {"batch_size": 40, "lr": 1e-2, "validation_steps": 2, "augment": "crop-flip", "threat": THREAT, "epochs": 2}


def plain(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.SiLU(), nn.Flatten(), nn.Linear(216, 4))


def dropping(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.SiLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(216, 4)
        )


def run(build: Any, data: ImageSet, out: Path | None, *, seed: int = 1, teacher: Any = None, **options: Any) -> Any:
    """Return the weights, history and what else there is to compare of one run."""
    settings = SETTINGS | {"method": "kdiga"} | options
    result = kdiga.distill(build(seed), teacher or plain(2), data, out=out, **settings)
    history = [{"terms": dict(one.terms), "clean": one.clean, "robust": one.robust} for one in result.history]
    return {"last": result.last_state, "best": result.best_state, "history": history}


def everything(process_group: ProcessGroup, folder: Path, data: ImageSet) -> dict[Any, Any]:
    """Return what every test looks at."""
    own = folder / f"rank-{process_group.rank}"
    return (
        train_all(process_group)
        | train_more(process_group)
        | {
            "whole": run(plain, data, own / "whole", ema=0.8),
            "uninterrupted": run(dropping, data, None, ema=0.8),
            "epochs averaged": run(dropping, data, None, swa=0.5),
            "interrupted": interrupted(data, own / "parts"),
            "begun": began(process_group, data, own / "begun"),
            "scores": validator(data, process_group)(plain(1), 3),
            "own draws": own_draws(process_group),
            "rows": rows_read(data, folder / "store"),
            "refused": refused(data),
            "weights": begun_equal(process_group),
            "named layer": layer_refused(process_group),
            "wrapped": wrapped(process_group),
        }
    )


def interrupted(data: ImageSet, out: Path) -> Any:
    """Be stopped by a signal that one process alone hears, and by an error in each; then end well."""

    def hear(done: int, total: int) -> None:
        if done == 4 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    def fail(done: int, total: int) -> None:
        if done == 13:
            raise KeyError

    told = ""
    with mock.patch.object(Interruption, "request", lambda self: self._signal or SAVE):
        try:
            run(dropping, data, out, ema=0.8, on_step=hear)
        except InterruptedRunError as error:
            told = str(error)
        with suppress(KeyError):
            run(dropping, data, out, ema=0.8, seed=9, resume=True, on_step=fail)
        return run(dropping, data, out, ema=0.8, seed=9, resume=True) | {"told": told}


def began(process_group: ProcessGroup, data: ImageSet, out: Path) -> str:
    """Leave a run in the middle of its second epoch, for one process to go on with."""

    def hear(done: int, total: int) -> None:
        if done == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run(plain, data, out, ema=0.8, on_step=hear)
    except InterruptedRunError as error:
        return str(error)
    return "ended"


def validator(data: ImageSet, process_group: ProcessGroup) -> Validator:
    """Return a check of three batches, of unequal size."""
    many = data.take(torch.arange(1200) % len(data))
    return Validator(many, THREAT, 2, 1100, 0, process_group)


def own_draws(process_group: ProcessGroup) -> tuple[float, float, float]:
    """Return a draw inside a network, one of the batch's, and one of a data loader's."""
    streams = RngStreams(process_group, 1, torch.device("cpu"))
    with seeded(4, 2):
        streams.begin(4, 2)
        with streams.stepping():
            inside = float(torch.rand(()))
            (shard,) = streams.shards()
            shared = float(shard.uniform(torch.empty(1)).sum())
        return inside, shared, float(torch.rand(()))


def rows_read(data: ImageSet, store: Path) -> list[list[int]]:
    """Return which rows of a stored teacher each step of one epoch reads."""
    read: list[list[int]] = []
    teacher = CachedTeacher.open(store)
    rows = type(teacher.store).rows

    def noted(self: Any, view: int, index: Any) -> Any:
        read.append(index.tolist())
        return rows(self, view, index)

    with mock.patch.object(type(teacher.store), "rows", noted):
        run(plain, data, None, teacher=teacher, epochs=1, augment="none", method="kdiga")
    return read


def refused(data: ImageSet) -> str:
    try:
        run(plain, data, None, batch_size=41)
    except InputError as error:
        return str(error)
    return "accepted"


def begun_equal(process_group: ProcessGroup) -> Any:
    """Return a student's weights where every process brought other ones."""
    student, teacher, _ = networks(torch.float64)
    with torch.no_grad():
        student[0].weight += process_group.rank
    task = TrainingTask(student, [teacher], method_by_name("kd"), THREAT)
    stepper = Stepper(task, TrainingSettings(device="cpu"), Exact(), steps=1, process_group=process_group)
    return stepper.student.state_dict()


def layer_refused(process_group: ProcessGroup) -> str:
    class Other(nn.BatchNorm2d):
        pass

    student = nn.Sequential(Other(1), nn.Flatten(), nn.Linear(64, 4))
    settings = TrainingSettings(device="cpu", sync_batch_norm=True)
    try:
        task = TrainingTask(student, [plain(2)], method_by_name("kd"), THREAT)
        Stepper(task, settings, Exact(), steps=1, process_group=process_group)
    except InputError as error:
        return str(error)
    return "accepted"


def wrapped(process_group: ProcessGroup) -> dict[str, float]:
    """Return how far the gradient of a student in PyTorch's own wrapper is from the processes' mean, by method."""
    found = {}
    for name, kind in available_methods().items():
        grads = []
        for wrap in (DistributedDataParallel, lambda model: model):
            student, teacher, second = networks(torch.float64)
            teacher.train(kind().needs.trains_teacher)
            distiller = Distiller(
                wrap(student.train()), teacher, second_teacher=second, method=name, total_steps=10, threat=THREAT
            )
            distiller.load_state_dict({"step": 9, "memory": {}})
            batch = batches(torch.float64, 1)[0].rows(process_group.share.rows(12))
            with seeded(5, process_group.rank):
                distiller(batch.images, batch.labels).backward()
            grads.append([parameter.grad for parameter in student.parameters()])
        process_group.average(grads[1])
        one, two = (torch.cat([part.flatten() for part in grad]) for grad in grads)
        found[name] = float((one - two).norm() / two.norm())
    return found


def alone_scores(data: ImageSet) -> Scores:
    return validator(data, SINGLE_PROCESS)(plain(1), 3)
