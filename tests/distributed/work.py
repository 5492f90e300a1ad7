"""What each of two processes does in the tests of this folder, and how they are started."""

from __future__ import annotations

import copy
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn

from kdiga.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from kdiga.gradients.routes import route_by_name
from kdiga.methods import available_methods
from kdiga.model_state import seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers
from tests.contracts.test_methods import VARIANTS

COUNT = 2
ROUTES = ("exact", "finite-difference", "one-sided")
SMALLER = {"steps": 2}  # of every attack: what is drawn and gathered does not depend on their number


def together(work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Return what a function of this module comes to in each of two processes, which are connected by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_one, (work, folder, port, args), nprocs=COUNT)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(COUNT)]


def _one(rank: int, work: Callable[..., Any], folder: Path, port: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": COUNT, "LOCAL_WORLD_SIZE": COUNT, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"})
    process_group = ProcessGroup.connect(torch.device("cpu"))
    torch.save(work(process_group, *args), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def configured(variant: str) -> Any:
    """Return a variant's method, its attacks cut to two steps."""
    name, options = VARIANTS[variant]
    method = available_methods()[name]
    few = {key: value for key, value in SMALLER.items() if key in method.__dataclass_fields__ and key not in options}
    return method(**(few if name != "tangent" else {}), **options)


def configurations() -> list[tuple[str, str, str]]:
    """Return every method's variants, on each route that they have, under both norms."""
    found = []
    for variant in VARIANTS:
        routed = configured(variant).needs.student_gradient == "differentiable"
        for route in ROUTES if routed else ROUTES[:1]:
            found += [(variant, route, norm) for norm in ("linf", "l2")]
    return found


def networks(dtype: torch.dtype) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return student, teacher and second teacher, batch norm's statistics being no trivial ones."""
    models = [five_layers(seed).to(dtype) for seed in (1, 2, 3)]
    with torch.no_grad(), seeded(11):
        for model in models:
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_(0, 0.2)
                    layer.running_var.uniform_(0.5, 1.5)
    return models[0], models[1].eval(), models[2].eval()


def batches(dtype: torch.dtype, count: int = 2, size: int = 12) -> list[Batch]:
    with seeded(5):
        return [
            Batch(torch.rand(size, 1, 8, 8).to(dtype), torch.randint(0, 10, (size,)), torch.arange(size))
            for _ in range(count)
        ]


def trained(
    process_group: ProcessGroup,
    variant: str,
    route: str,
    norm: str,
    *,
    dtype: torch.dtype = torch.float64,
    train: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Return what two steps of one configuration leave behind: weights, statistics, terms and memory.

    Args:
        process_group: who takes them.
        variant: of a method.
        route: of its input gradients.
        norm: of the threat model.
        dtype: of everything.
        train: batch norm is in train mode; else the student is in eval mode as a whole.
        settings: of the run.
    """
    student, teacher, second = networks(dtype)
    method = configured(variant)
    options = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "batch_size": 12} | settings
    task = TrainingTask(student, [teacher, second][: method.needs.teachers], method, ThreatModel(norm, 0.1))
    settings, route = TrainingSettings(**options), route_by_name(route, None)
    stepper = Stepper(task, settings, route, steps=3, process_group=process_group)
    stepper.train_mode()
    if not train:
        student.eval()
        teacher.eval()
    terms = []
    with seeded(0, 1):
        stepper.streams.begin(0, 1)
        for number, batch in enumerate(batches(dtype)):
            # From the middle of a run: before it some terms are off.
            objective = stepper.take(batch.rows(process_group.share.rows(len(batch.labels))), number + 1)
            terms.append([term.weight * float(term.value.detach()) for term in objective.terms])
    stepper.average_statistics()
    stepper.release_models()
    state = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    return {"states": state, "terms": terms, "memory": dict(stepper.distiller.memory)}


def train_all(process_group: ProcessGroup) -> dict[tuple[str, str, str], Any]:
    """Train every configuration."""
    return {one: outcome_of(process_group, *one) for one in configurations()}


def train_more(process_group: ProcessGroup) -> dict[str, Any]:
    """Train a few in other ways."""
    return {name: outcome_of(process_group, *one, **options) for name, (one, options) in OTHER_WAYS.items()}


def outcome_of(process_group: ProcessGroup, *one: str, **options: Any) -> Any:
    try:
        return trained(process_group, *one, **options)
    except Exception:
        return traceback.format_exc()


SHARED = {"train": True, "sync_batch_norm": True}
OTHER_WAYS: dict[str, tuple[tuple[str, str, str], dict[str, Any]]] = {
    "float32": (("kdiga", "exact", "linf"), {"dtype": torch.float32}),
    "bf16": (("pgd-at", "exact", "linf"), {"dtype": torch.float32, "precision": "bf16"}),
    "accumulated": (("tangent-part", "exact", "linf"), {"accumulate": 3}),
    "accumulated-start": (("kdiga-rs", "finite-difference", "l2"), {"accumulate": 2}),
    "perturbed": (("rslad", "exact", "linf"), {"awp": 0.05, "accumulate": 2}),
    "shared exact": (("kdiga", "exact", "linf"), SHARED),
    "shared finite difference": (("kdiga", "finite-difference", "linf"), SHARED),
    "shared one-sided": (("kdiga", "one-sided", "linf"), SHARED),
    "shared attack": (("trades", "exact", "linf"), SHARED | {"attack_batch_norm": "train"}),
    "shared peer": (("peeraid", "exact", "linf"), SHARED),
    "shared perturbed": (("kdiga", "exact", "linf"), SHARED | {"awp": 0.05}),
    "clipped adamw": (("kd", "exact", "linf"), {"optimizer": "adamw", "lr": 1e-3, "grad_clip": 0.1}),
}


def alone(*one: str, **options: Any) -> Any:
    return trained(SINGLE_PROCESS, *one, **options)
