"""Seconds a step of one process and of two on the same batch, and what part of it is spent averaging gradients.

    python benchmarks/scaling.py            # starts the processes itself; one thread each

One process takes the whole batch, then two take half each, by turns. Seconds are those that a process computed, waiting
left out, so that other programs on the machine do not count: what two free cores would take.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import kdiga
from kdiga.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from kdiga.gradients.routes import Exact
from kdiga.methods import method_by_name
from kdiga.model_state import seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel

REPEATS = 5
CASES = [("resnet20", "rslad"), ("resnet20", "kdiga")]


def stepper_of(name: str, method: str, group: ProcessGroup) -> Stepper:
    """Return the stepper of a CIFAR-sized run."""
    with seeded(0):
        student, teacher = (kdiga.load_model(one, num_classes=10, in_channels=3, image_size=32) for one in (name, name))
    settings = TrainingSettings(device="cpu", batch_size=32)
    task = TrainingTask(student, [teacher.eval()], method_by_name(method), ThreatModel())
    return Stepper(task, settings, Exact(), steps=1000, process_group=group)


def measure(rank: int, port: int) -> None:
    """Time steps in one of two processes, and print in the first."""
    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in environment.items()})
    group = ProcessGroup.connect(torch.device("cpu"))
    batch = Batch(torch.rand(32, 3, 32, 32), torch.arange(32) % 10, torch.arange(32))
    for name, method in CASES:
        one, two = stepper_of(name, method, SINGLE_PROCESS), stepper_of(name, method, group)
        times: dict[str, list[float]] = {"one": [], "two": [], "average": []}
        for number in range(REPEATS + 1):
            if group.leads:
                times["one"].append(timed(one, batch, number))
            dist.barrier()
            times["two"].append(timed(two, batch.rows(group.share.rows(32)), number))
            dist.barrier()
            begun = time.process_time()
            group.average([p.grad for p in two.parameters if p.grad is not None])
            times["average"].append(time.process_time() - begun)
        if group.leads:
            ratios = [a / b for a, b in zip(times["one"][1:], times["two"][1:], strict=True)]
            middle = {key: statistics.median(values[1:]) for key, values in times.items()}
            size = sum(p.numel() for p in two.parameters) / 1e6
            sys.stdout.write(
                f"{name} {method}, {size:.2f} M: one {middle['one']:.3f} s, each of two {middle['two']:.3f} s"
                f", ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), of it averaging "
                f"{middle['average'] * 1000:.1f} ms\n"
            )
            sys.stdout.flush()
    dist.destroy_process_group()


def timed(stepper: Stepper, batch: Batch, number: int) -> float:
    """Return the seconds of one step."""
    begun = time.process_time()
    stepper.take_and_wait(batch, number)
    return time.process_time() - begun


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        chosen = free.getsockname()[1]
    mp.spawn(measure, (chosen,), nprocs=2)
