"""Cost of a training step by method and route, as ratios to plain training in the same run.

    python benchmarks/speed.py --out runs/speed            # `make bench`
    python benchmarks/speed.py --out runs/speed --students resnet8 --repeats 3 --no-compiled

On a CUDA device: students ResNet-18, MobileNetV2 and ViT-tiny, teacher WRN-34-10, 32x32, batch 128, compiled variants
included. On a CPU smaller stand-ins, and compiled variants only with --compiled. Every repeat times all variants once,
one after the other, so that other load on the machine affects all of them; ratios are within a repeat. Weights and
images are random, because time does not depend on them. Writes speed.json and speed.md.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import Step, ratios_of, seconds_of, spread
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import kdiga
from kdiga.data import ImageSet, feed_of
from kdiga.data.views import Augmentation
from kdiga.gradients.routes import Exact, route_by_name
from kdiga.methods import method_by_name
from kdiga.methods.adaad import AdaAD
from kdiga.methods.pgd_at import PGDAT
from kdiga.methods.rslad import RSLAD
from kdiga.methods.tangent import Tangent
from kdiga.model_state import seeded
from kdiga.runs.provenance import provenance
from kdiga.teachers import CachedTeacher, Store
from kdiga.teachers.fill import fill
from kdiga.teachers.manifest import Manifest
from kdiga.training import TrainingSettings
from kdiga.training.step_profile import peak_bytes
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.training.teacher_sources import conditions, live_source
from kdiga.types import ThreatModel

THREAT = ThreatModel("linf", 8 / 255)
PLAIN, AUTHOR, BY_HAND = "CE", "KDIGA, the author's way", ", by hand"


@dataclass(frozen=True)
class Bench:
    """Models, batch and settings of all timings."""

    student: str
    teacher: str
    batch: int
    device: str
    compiled: bool
    store: Path

    def data(self) -> ImageSet:
        """Random images."""
        with seeded(1):
            images = torch.randint(0, 256, (4 * self.batch, 3, 32, 32), dtype=torch.uint8)
            return ImageSet(images, torch.arange(len(images)) % 10, [str(number) for number in range(10)])

    def model(self, name: str, seed: int) -> nn.Module:
        """Random weights."""
        with seeded(seed):
            return kdiga.load_model(name).to(self.device)

    def settings(self, **changes: Any) -> TrainingSettings:
        """Settings of a run of ten epochs."""
        base = TrainingSettings(epochs=10, batch_size=self.batch, optimizer="sgd", lr=1e-3, schedule="constant")
        return replace(base, device=self.device, route="exact", **changes)

    def cached(self, precision: str) -> CachedTeacher:
        """The signals of the teacher in a real store."""
        data, settings = self.data(), self.settings(precision=precision)
        needs = method_by_name("kdiga").needs
        asked = conditions(data, needs, settings)
        manifest = Manifest(
            teacher="random",
            architecture=self.teacher,
            views=1,
            dtype="fp16",
            downsample=1,
            shard_examples=4096,
            batch_size=self.batch,
            device=self.device,
            version=None,
            **asked,
        )
        store = Store.create(self.store / f"{self.teacher}-{precision}", manifest)
        fill(store, live_source(self.model(self.teacher, 2), data, "loss", settings))
        return CachedTeacher(store)

    def step(self, method: Any, teacher: Any = None, route: str = "exact", **changes: Any) -> Step:
        """One step of kdiga, data included."""
        settings = self.settings(**changes)
        method = method_by_name(method)
        twice = method.needs.student_gradient == "differentiable"
        task = TrainingTask(self.model(self.student, 1), [teacher] if method.needs.teachers else [], method, THREAT)
        stepper = Stepper(task, settings, route_by_name(route) if twice else Exact(), steps=1000)
        stepper.train_mode()
        batches = _forever(
            feed_of(
                self.data(),
                batch_size=self.batch,
                seed=0,
                device=torch.device(self.device),
                augmentation=Augmentation(),
            )
        )

        def take() -> None:
            # Number 500 of 1000: ramps are over, every term is formed.
            stepper.take_and_wait(next(batches), 500)

        return take


def _forever(feed: Any) -> Any:
    while True:
        yield from feed.epoch(0)


def author(bench: Bench) -> Step:
    """KDIGA as the author's public loop: fp32, two forwards of student and teacher, PyTorch's double backprop."""
    student, teacher = bench.model(bench.student, 1).train(), bench.model(bench.teacher, 2).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, weight_decay=2e-4)
    data = bench.data()
    images, labels = (data.images[: bench.batch].float() / 255).to(bench.device), data.labels[: bench.batch]
    labels = labels.to(bench.device)
    alpha, gamma, kl = 0.5, 10.0, nn.KLDivLoss()

    def take() -> None:
        optimizer.zero_grad()
        inputs = images.clone().requires_grad_()
        (teacher_slope,) = torch.autograd.grad(F.cross_entropy(teacher(inputs), labels), inputs)
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = student(images)
        inputs = images.clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the one attention that can be differentiated twice
            loss_at_inputs = F.cross_entropy(student(inputs), labels)
        (slope,) = torch.autograd.grad(loss_at_inputs, inputs, create_graph=True)
        imitation = kl(F.log_softmax(logits, 1), F.softmax(teacher_logits.detach(), 1))
        gap = torch.norm(slope - teacher_slope) * gamma / len(images)
        loss = alpha * imitation + (1 - alpha) * F.cross_entropy(logits, labels) + gap
        loss.backward()
        optimizer.step()
        loss.item()

    return take


def by_hand(bench: Bench, method: str, precision: str) -> Step:
    """A bare loop of the mathematics of ``ce``, ``kd`` or ``kdiga`` (exact, PyTorch's own second derivatives)."""
    student, teacher = bench.model(bench.student, 1).train(), bench.model(bench.teacher, 2).eval().requires_grad_(False)
    student, teacher = (one.to(memory_format=torch.channels_last) for one in (student, teacher))
    parameters = list(student.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)
    data = bench.data()
    stored, labels = data.images[: bench.batch].to(bench.device), data.labels[: bench.batch].to(bench.device)

    def objective(images: torch.Tensor) -> torch.Tensor:
        logits = student(images)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        if method == "ce":
            return losses.mean()
        teacher_logits = teacher(images)
        target = F.log_softmax(teacher_logits.detach().float(), 1)
        imitation = F.kl_div(F.log_softmax(logits.float(), 1), target, reduction="batchmean", log_target=True)
        loss = 0.5 * losses.mean() + 0.5 * imitation
        if method == "kd":
            return loss
        teacher_loss = F.cross_entropy(teacher_logits.float(), labels, reduction="sum")
        (wanted,) = torch.autograd.grad(teacher_loss, images)
        (slope,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
        return loss + (slope - wanted).flatten(1).norm(dim=1).mean()

    def take() -> None:
        optimizer.zero_grad()
        images = (stored.float() / 255).to(memory_format=torch.channels_last).requires_grad_(method == "kdiga")
        with (
            torch.autocast(bench.device, dtype=torch.bfloat16, enabled=precision == "bf16"),
            sdpa_kernel(SDPBackend.MATH) if method == "kdiga" else nullcontext(),
            torch.set_grad_enabled(True),
        ):
            loss = objective(images)
        loss.backward(inputs=parameters)
        optimizer.step()
        loss.item()

    return take


def variants(bench: Bench) -> dict[str, Callable[[], Step]]:
    """Builders of all timed variants."""
    live = bench.model(bench.teacher, 2).eval()
    stored = {precision: bench.cached(precision) for precision in ("fp32", "bf16")}
    found: dict[str, Callable[[], Step]] = {
        PLAIN: lambda: bench.step("ce"),
        "KD": lambda: bench.step("kd", live),
        AUTHOR: lambda: author(bench),
        "PGD-10 AT": lambda: bench.step(PGDAT(steps=10)),
        "RSLAD": lambda: bench.step(RSLAD(steps=10), live),
        "AdaAD": lambda: bench.step(AdaAD(steps=10), live),
    }
    for name, method in (("CE", "ce"), ("KD", "kd"), ("KDIGA exact", "kdiga")):
        for suffix, precision in (("", "fp32"), (", bf16", "bf16")):
            found[f"{name}{BY_HAND}{suffix}"] = lambda m=method, p=precision: by_hand(bench, m, p)
    methods = {
        "KDIGA exact": ("kdiga", "exact"),
        "KDIGA exact, PyTorch's": ("kdiga", "exact-pytorch"),
        "KDIGA finite-difference": ("kdiga", "finite-difference"),
        "KDIGA one-sided": ("kdiga", "one-sided"),
        "tangent": ("tangent", "exact"),
        "tangent, learn_at adv": (Tangent(learn_at="adv"), "exact"),
    }
    for compiled in (False, True) if bench.compiled else (False,):
        for precision in ("fp32", "bf16"):
            about = ", ".join([precision] * (precision != "fp32") + ["compiled"] * compiled)
            suffix, changes = f", {about}" if about else "", {"precision": precision, "compile": compiled}
            if about:
                found[f"{PLAIN}{suffix}"] = lambda changes=changes: bench.step("ce", **changes)
                found[f"KD{suffix}"] = lambda changes=changes: bench.step("kd", live, **changes)
            for name, (method, route) in methods.items():
                for teacher, source in (("live", live), ("cached", stored[precision])):
                    found[f"{name}, {teacher}{suffix}"] = lambda m=method, r=route, s=source, c=changes: bench.step(
                        m, s, r, **c
                    )
    return found


def measure(bench: Bench, repeats: int, only: str, minutes: float) -> list[dict[str, Any]]:
    """Time the variants that match ``only`` ``repeats`` times in turn, and measure the memory of each once.

    After 0.6 of the ``minutes`` no further variant is built, and after all of them no further repeat is begun.
    """
    begun = time.monotonic()
    built = {name: one for name, one in variants(bench).items() if name in (PLAIN, AUTHOR) or re.search(only, name)}
    steps, peaks, seconds = dict[str, Step](), dict[str, int](), dict[str, list[float]]()
    for number, (name, build) in enumerate(built.items()):
        if number > 1 and time.monotonic() - begun > 0.6 * 60 * minutes:
            print(f"{bench.student}: out of time; left out: {', '.join(list(built)[number:])}", file=sys.stderr)
            break
        print(f"{bench.student}: {number + 1}/{len(built)} {name}", file=sys.stderr, flush=True)
        steps[name] = build()
        steps[name]()
        peaks[name] = peak_bytes(steps[name], torch.device(bench.device))
    # The processor's time on one thread of a CPU: other load on the machine then counts less.
    clock = time.process_time if bench.device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for repeat in range(repeats):
        if repeat and time.monotonic() - begun > 60 * minutes:
            break
        print(f"{bench.student}: repeat {repeat + 1}/{repeats}", file=sys.stderr, flush=True)
        for name, step in steps.items():
            seconds.setdefault(name, []).append(seconds_of(step, clock))
    rows = list[dict[str, Any]]()
    for name, times in seconds.items():
        row = {"student": bench.student, "variant": name, "seconds": times, "peak_bytes": peaks[name]}
        row |= {"to_plain": ratios_of(times, seconds[PLAIN]), "author_to_it": ratios_of(seconds[AUTHOR], times)}
        same_by_hand = re.sub("^([^,]+)(, live)?", rf"\1{BY_HAND}", name, count=1)
        if same_by_hand in seconds:
            row["to_by_hand"] = ratios_of(times, seconds[same_by_hand])
        rows.append(row | {"peak_to_author": peaks[name] / peaks[AUTHOR]})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of one student as Markdown."""
    lines = [
        "| step | times the plain CE step | times faster than the author's way | times the same loop by hand | "
        "peak memory, of the author's |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        plain, faster, hand = (
            spread(row[key]) if key in row else "" for key in ("to_plain", "author_to_it", "to_by_hand")
        )
        lines.append(f"| {row['variant']} | {plain} | {faster} | {hand} | {row['peak_to_author']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, write."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--students", default="resnet18,mobilenet-v2,vit-tiny" if cuda else "resnet20,mobilenet-v2,vit-micro"
    )
    parser.add_argument("--teacher", default="wrn-34-10" if cuda else "wrn-16-4")
    parser.add_argument("--batch", type=int, default=128 if cuda else 32)
    parser.add_argument("--repeats", type=int, default=7 if cuda else 5)
    parser.add_argument(
        "--only", default="", help="regular expression of the variants to time, besides CE and the author's way"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop in about this time, all students together"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=cuda)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    students = asked.students.split(",")
    rows, text, begun = list[dict[str, Any]](), list[str](), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for student in students:
            device = "cuda" if cuda else "cpu"
            bench = Bench(student, asked.teacher, asked.batch, device, asked.compiled, Path(folder))
            found = measure(bench, asked.repeats, asked.only, asked.minutes / len(students))
            rows += found
            text.append(f"### {student} from {asked.teacher}, batch {asked.batch}\n\n{table(found)}\n")
            where = provenance(torch.device(device))
            (asked.out / "speed.json").write_text(json.dumps({"rows": rows, "provenance": where}, indent=2) + "\n")
            minutes = math.ceil((time.perf_counter() - begun) / 60)
            ran = f"`{shlex.join(['python', *sys.argv])}`, {asked.repeats} repeats, {asked.threads} CPU thread, "
            machine = where["hardware"]["accelerator"] or where["hardware"]["processor"]
            about = f"{ran}{machine}, torch {where['versions']['torch']}, {where['date'][:10]}, {minutes} minutes."
            (asked.out / "speed.md").write_text("\n".join([about, "", *text]))
    print((asked.out / "speed.md").read_text())


if __name__ == "__main__":
    main()
