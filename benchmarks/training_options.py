"""Cost of two options of training: adversarial weight perturbation, and the memory layout.

    python benchmarks/training_options.py                     # both tables, ResNet-20, MobileNetV2 and vit-micro
    python benchmarks/training_options.py --students resnet8 --batch 16 --repeats 2

Weight perturbation, on the first student: the step as a multiple of the step without it, of the share of its passes,
and of a step written by hand.
Layout: the step in PyTorch's default layout as a multiple of the one in channels_last.
Every repeat times all steps once, one after the other, so that other load on the machine affects all of them; ratios
are within a repeat. Weights and images are random. One CPU thread; the time is the processor's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from speed import THREAT, Bench
from timing import Step, ratios_of, seconds_of, spread

from kdiga.methods.pgd_at import PGDAT

SIZE, PGD_STEPS = 0.005, 10
LAYOUT_STEPS = {
    "`ce`": ("ce", "exact"),
    "`kdiga`, exact": ("kdiga", "exact"),
    "`kdiga`, exact with PyTorch's derivatives": ("kdiga", "exact-pytorch"),
    "`kdiga`, one-sided": ("kdiga", "one-sided"),
    "`tangent`": ("tangent", "exact"),
}
METHODS: dict[str, tuple[Any, int]] = {"ce": ("ce", 1), "pgd-at": (PGDAT(steps=PGD_STEPS), PGD_STEPS + 1)}  # and passes


def by_hand(bench: Bench, *, attacked: bool) -> Step:
    """A bare loop of PGD-AT or plain training with weight perturbation: attack, ascend, take the gradient, return."""
    student = bench.model(bench.student, 1).train().to(memory_format=torch.channels_last)
    parameters = list(student.parameters())
    weights = [one for one in parameters if one.dim() > 1]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)
    data = bench.data()
    stored, labels = data.images[: bench.batch], data.labels[: bench.batch]

    def adversarial(images: torch.Tensor) -> torch.Tensor:
        student.eval()
        found = (images + torch.empty_like(images).uniform_(-THREAT.eps, THREAT.eps)).clamp(0, 1)
        for _ in range(PGD_STEPS):
            found = found.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(student(found), labels, reduction="sum"), found)
            moved = found.detach() + THREAT.eps / 4 * slope.sign()
            found = torch.maximum(torch.minimum(moved, images + THREAT.eps), images - THREAT.eps).clamp(0, 1)
        student.train()
        return found.detach()

    def take() -> None:
        images = (stored.float() / 255).to(memory_format=torch.channels_last)
        inputs = adversarial(images) if attacked else images
        running = [one.clone() for one in student.buffers()]
        slopes = torch.autograd.grad(F.cross_entropy(student(inputs), labels), weights)
        before = [one.detach().clone() for one in weights]
        with torch.no_grad():
            for buffer, value in zip(student.buffers(), running, strict=True):
                buffer.copy_(value)
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(slope * (SIZE * weight.norm() / slope.norm().clamp_min(1e-20)))
        optimizer.zero_grad()
        loss = F.cross_entropy(student(inputs), labels)
        loss.backward()
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
        optimizer.step()
        loss.item()

    return take


def timed(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each step, one entry a repeat; an earlier repeat warms up."""
    seconds = {name: list[float]() for name in steps}
    for repeat in range(repeats + 1):
        print(f"repeat {repeat}/{repeats}", file=sys.stderr, flush=True)
        for name, step in steps.items():
            seconds[name].append(seconds_of(step, time.process_time))
    return {name: times[1:] for name, times in seconds.items()}


def weight_perturbation(bench: Bench, repeats: int) -> None:
    """Print the cost of weight perturbation."""
    steps = dict[str, Step]()
    for name, (method, _) in METHODS.items():
        steps[name] = bench.step(method)
        steps[f"{name}, awp"] = bench.step(method, awp=SIZE)
        steps[f"{name}, by hand"] = by_hand(bench, attacked=name != "ce")
    seconds = timed(steps, repeats)
    print(
        f"| {bench.student}: method | passes, times those without | time, the same | time over passes | times by hand |"
    )
    print("|---|---|---|---|---|")
    for name, (_, passes) in METHODS.items():
        plain, awp, hand = (seconds[f"{name}{end}"] for end in ("", ", awp", ", by hand"))
        share = (passes + 1) / passes
        rows = [spread(ratios_of(awp, one)) for one in (plain, [share * one for one in plain], hand)]
        print(f"| `{name}` | {share:.2f} | {' | '.join(rows)} |", flush=True)


def layout(benches: Sequence[Bench], repeats: int) -> None:
    """Print the step in the default layout as a multiple of the one in channels_last."""
    print(f"\n| step | {' | '.join(bench.student for bench in benches)} |\n|---|{'---|' * len(benches)}")
    rows = {name: list[str]() for name in LAYOUT_STEPS}
    for bench in benches:
        teacher = bench.cached("fp32")
        steps = {
            f"{name}, {last}": bench.step(method, teacher, route, channels_last=last)
            for name, (method, route) in LAYOUT_STEPS.items()
            for last in (True, False)
        }
        seconds = timed(steps, repeats)
        for name, row in rows.items():
            row.append(spread(ratios_of(seconds[f"{name}, False"], seconds[f"{name}, True"])))
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def main() -> None:
    """Read the command line, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", default="resnet20,mobilenet-v2,vit-micro")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--table", choices=("awp", "layout"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        students = asked.students.split(",")
        benches = [Bench(one, "resnet8", asked.batch, "cpu", False, Path(folder) / one) for one in students]
        if asked.table != "layout":
            weight_perturbation(benches[0], asked.repeats)
        if asked.table != "awp":
            layout(benches, asked.repeats)


if __name__ == "__main__":
    main()
