"""Steps through input gradients under ``kdiga.fast_double_backward`` and under PyTorch's own second derivatives.

    python benchmarks/double_backward.py --out runs/double-backward
    python benchmarks/double_backward.py --out runs/double-backward --networks resnet20:32 --repeats 3

Exact alignment with a given teacher gradient, for several networks, and three gradient penalties: WGAN-GP on a critic,
the regularisation of input gradients on a ResNet-18, and R1 on a residual discriminator. Every repeat times the plain
step and both penalised ones in turn; ratios are within a repeat, so other load on the machine affects all of them
alike. On a CPU seconds are those of the processor. Writes double-backward.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdiga
from kdiga.gradients.double_backward import pytorch_double_backward
from kdiga.model_state import seeded
from kdiga.runs.provenance import provenance
from kdiga.training.step_profile import peak_bytes

Step = Callable[[], None]
Context = Callable[[], AbstractContextManager[None]]
Loss = Callable[[nn.Module, Tensor, Context | None], Tensor]

NETWORKS = (
    "resnet20:32,resnet18:8,wrn-16-4:8,mobilenet-v2:16,timm:efficientnet_lite0:16,vit-micro:32,vit-tiny:16,"
    "timm:convnext_atto:16"
)
ON_CUDA = "resnet18:128,mobilenet-v2:128,vit-tiny:128,resnet18:256,mobilenet-v2:256,vit-tiny:256"


def classes_of(model: nn.Module, images: Tensor, context: Context | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, labels and, under a context, the input gradient with its graph."""
    labels = torch.arange(len(images), device=images.device) % 10
    if context is None:
        return model(images), labels, None
    inputs = images.detach().requires_grad_()
    with context():
        logits = model(inputs)
    total = F.cross_entropy(logits.float(), labels, reduction="sum")
    return logits, labels, torch.autograd.grad(total, inputs, create_graph=True)[0]


def alignment(model: nn.Module, images: Tensor, context: Context | None) -> Tensor:
    """Exact KDIGA with a cached teacher: Shao et al., 2021."""
    logits, labels, gradient = classes_of(model, images, context)
    loss = F.cross_entropy(logits.float(), labels)
    return loss if gradient is None else loss + (gradient - images).flatten(1).norm(dim=1).mean()


def input_regularisation(model: nn.Module, images: Tensor, context: Context | None) -> Tensor:
    """Squared length of input gradients: Ross and Doshi-Velez, 2018."""
    logits, labels, gradient = classes_of(model, images, context)
    loss = F.cross_entropy(logits.float(), labels)
    return loss if gradient is None else loss + gradient.square().flatten(1).sum(1).mean()


def wgan_gp(critic: nn.Module, images: Tensor, context: Context | None) -> Tensor:
    """A critic's loss with the penalty of Gulrajani et al., 2017, between real and generated images."""
    fake = images.flip(0)
    loss = critic(fake).mean() - critic(images).mean()
    if context is None:
        return loss
    between = torch.lerp(images, fake, torch.rand(len(images), 1, 1, 1, device=images.device)).requires_grad_()
    with context():
        scores = critic(between)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    return loss + 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def r1(critic: nn.Module, images: Tensor, context: Context | None) -> Tensor:
    """A discriminator's loss with the penalty on real images of Mescheder et al., 2018."""
    fake, real = images.flip(0), images.detach().requires_grad_(context is not None)
    with nullcontext() if context is None else context():
        scores = critic(real)
    loss = F.softplus(critic(fake)).mean() + F.softplus(-scores).mean()
    if context is None:
        return loss
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return loss + 5 * gradient.square().flatten(1).sum(1).mean()


def dcgan_critic() -> nn.Module:
    """Strided convolutions with layer norm, as WGAN-GP recommends."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
    for width in (64, 128):
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(1, 2 * width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(256, 1, 4), nn.Flatten())


class Residual(nn.Module):
    """A block of a residual discriminator."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, out, 3, 1, 1)
        self.skip = nn.Conv2d(width, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output at half the size."""
        y = self.second(F.silu(self.first(F.silu(x))))
        return F.avg_pool2d(y + self.skip(x), 2)


def residual_critic() -> nn.Module:
    """A small residual discriminator with SiLU."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1),
        Residual(64, 128),
        Residual(128, 256),
        Residual(256, 256),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 1),
    )


PENALTIES: dict[str, tuple[Callable[[], nn.Module], Loss, int]] = {
    "WGAN-GP, DCGAN critic": (dcgan_critic, wgan_gp, 64),
    "input-gradient regularisation, ResNet-18": (lambda: kdiga.load_model("resnet18"), input_regularisation, 8),
    "R1, residual discriminator": (residual_critic, r1, 16),
}


def step_of(model: nn.Module, images: Tensor, loss: Loss, context: Context | None, bf16: bool) -> Step:
    """One training step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def take() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            value = loss(model, images, context)
        value.backward()
        optimizer.step()
        value.item()

    return take


def measure(name: str, build: Callable[[], nn.Module], loss: Loss, batch: int, asked: argparse.Namespace) -> Any:
    """Time the plain step and the penalised one in both ways; return ratios to the plain step and peak memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # one thread: what else runs counts less
    layout = torch.contiguous_format if "vit" in name else torch.channels_last
    contexts: dict[str, Context | None] = {"plain": None, "fast": kdiga.fast_double_backward}
    contexts["pytorch"] = pytorch_double_backward
    with seeded(1):
        models = {key: build().to(device, memory_format=layout).train() for key in contexts}  # pyright: ignore[reportCallIssue]
        images = torch.rand(batch, 3, 32, 32).to(device, memory_format=layout)
    steps = {key: step_of(models[key], images, loss, contexts[key], asked.bf16) for key in contexts}
    for step in steps.values():
        step()
    peaks = {key: peak_bytes(step, device) for key, step in steps.items()}
    seconds: dict[str, list[float]] = {key: [] for key in steps}
    for _ in range(asked.repeats):
        for key, step in steps.items():
            begun, taken = clock(), 0
            while taken < 1 or clock() - begun < 0.5:
                step()
                taken += 1
            seconds[key].append((clock() - begun) / taken)
    row: dict[str, Any] = {"name": name, "batch": batch, "seconds": seconds, "peak_bytes": peaks}
    for top, bottom in (("fast", "plain"), ("pytorch", "plain"), ("pytorch", "fast")):
        ratios = [a / b for a, b in zip(seconds[top], seconds[bottom], strict=True)]
        row[f"{top}/{bottom}"] = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return row | {"memory": peaks["fast"] / peaks["pytorch"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| step | batch | fast, plain steps | PyTorch's, plain steps | times faster | peak memory, of PyTorch's |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[key]['median']:.2f} ({row[key]['low']:.2f} to {row[key]['high']:.2f})"
            for key in ("fast/plain", "pytorch/plain", "pytorch/fast")
        ]
        lines.append(f"| {row['name']} | {row['batch']} | {' | '.join(cells)} | {row['memory']:.2f} |")
    return "\n".join(lines)


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the steps of both ways as multiples of the plain step."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 0.5 * len(rows) + 1.1), layout="constrained")
    for offset, key, color, label in (
        (-0.19, "pytorch/plain", "#9aa5b1", "PyTorch's double backprop"),
        (0.19, "fast/plain", "#3b5bdb", "kdiga.fast_double_backward()"),
    ):
        places = [place + offset for place in range(len(rows))]
        medians = [row[key]["median"] for row in rows]
        axes.barh(places, medians, 0.36, color=color, label=label)
        for place, median in zip(places, medians, strict=True):
            axes.text(median + 0.05, place, f"{median:.2f}", va="center", fontsize=8)
    axes.axvline(2, color="#e03131", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [row["name"].removeprefix("timm:") for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time of a step, in plain training steps (dashed: 2.0, the limit)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=ON_CUDA if torch.cuda.is_available() else NETWORKS, help="NAME:BATCH,...")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--no-penalties", action="store_true", help="alignment only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    jobs = [
        (name, lambda name=name: kdiga.load_model(name), alignment, int(batch))
        for name, _, batch in (one.rpartition(":") for one in asked.networks.split(",") if one)
    ]
    if not asked.no_penalties:
        jobs += [(name, *penalty) for name, penalty in PENALTIES.items()]
    for name, build, loss, batch in jobs:
        print(name, file=sys.stderr, flush=True)
        rows.append(measure(name, build, loss, batch, asked))
        where = provenance(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        (asked.out / "double-backward.json").write_text(
            json.dumps({"rows": rows, "provenance": where}, indent=2) + "\n"
        )
        processor = where["hardware"]["accelerator"] or where["hardware"]["processor"]
        about = f"{asked.repeats} repeats, one thread, {processor}, torch {torch.__version__}, {where['date'][:10]}."
        ran = f"`{shlex.join(['python', *sys.argv])}`, {about}"
        (asked.out / "double-backward.md").write_text(f"{ran}\n\n{table(rows)}\n")
        chart(rows, asked.out / "double-backward.svg")
    print((asked.out / "double-backward.md").read_text())


if __name__ == "__main__":
    main()
