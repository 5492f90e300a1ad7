"""The cost of kdiga.Distiller over its method's formula: microseconds per step, and the share of a resnet20 step.

python benchmarks/distiller.py [--steps 1000]

One thread; CPU time, first deciles of alternating calls, which other processes disturb least. The overhead is measured
with a linear student, where it is not lost in the noise of convolutions; a step is a forward and a backward pass of
resnet20 with 64 images of 32x32 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import kdiga
from kdiga.methods import method_by_name
from kdiga.methods.context import StepContext, StepModels, StepSettings
from kdiga.training.teacher_sources import teacher_source
from kdiga.types import Batch, ThreatModel

METHODS = ("ce", "kd", "kdiga", "tangent")


def losses(
    name: str, student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor
) -> list[Callable[[], Tensor]]:
    """Return the loss by the method's formula on given results of a step, and by the object."""
    method, index = method_by_name(name), torch.arange(len(images))
    needs = method.needs
    models = StepModels(student, teacher_source(teacher, needs, first=True) if needs.teachers else None)
    settings = StepSettings(ThreatModel(), gradient=needs.student_gradient, gradient_of=needs.gradient_of)
    distiller = kdiga.Distiller(student, teacher, method=name, total_steps=1)
    distiller(images, labels)
    distiller.step = 1000  # after the steps with sanity checks
    formula = lambda: method(StepContext(Batch(images, labels, index), models, settings)).total()  # noqa: E731
    return [formula, lambda: distiller(images, labels)]


def seconds(calls: list[Callable[[], object]], steps: int) -> list[float]:
    """Return the first decile of the CPU seconds of each call, the calls in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(steps):
        for call, times in zip(calls, found, strict=True):
            begin = time.process_time()
            call()
            times.append(time.process_time() - begin)
    return [statistics.quantiles(times, n=10)[0] for times in found]


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| method | overhead in microseconds | resnet20 step in ms | share in % |\n|---|---|---|---|")
    for name in METHODS:
        tiny = [nn.Sequential(nn.Flatten(), nn.Linear(4, 10)) for _ in range(2)]
        by_hand, by_object = seconds(losses(name, *tiny, torch.rand(4, 1, 2, 2), torch.zeros(4).long()), steps)
        student, teacher = kdiga.load_model("resnet20").train(), kdiga.load_model("resnet20")
        _, distiller = losses(name, student, teacher, torch.rand(64, 3, 32, 32), torch.zeros(64).long())
        (step,) = seconds([lambda run=distiller: run().backward()], max(2, steps // 200))
        overhead = by_object - by_hand
        print(f"| {name} | {overhead * 1e6:.0f} | {step * 1e3:.0f} | {100 * overhead / step:.3f} |")


if __name__ == "__main__":
    main()
