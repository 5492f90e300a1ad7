"""CLEVER of kdiga and of adversarial-robustness-toolbox: seconds and radii, on the same model and images.

    pip install --target runs/art adversarial-robustness-toolbox six --no-deps     # for this comparison only
    PYTHONPATH=runs/art python benchmarks/clever.py RUN --examples 8 --repeats 3

Both get the same number of batches, points per batch and largest radius, and one thread, on the first images that the
model classifies correctly. The toolbox draws its batches from a pool. In its row "same points" the pool has as many
points as kdiga draws; its row "own pool" is its default, ten times the points of one batch for any number of batches.
Both clip points to [0, 1]. Every repeat has another seed and times all, one after another; ratios are within a repeat.
The last column fits the maxima of kdiga with the fit of the toolbox, which separates points from fit, and the benchmark
compares the likelihoods of the two fits.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kdiga
from kdiga.certification import clever
from kdiga.certification.class_scores import ClassScores
from kdiga.certification.lipschitz import Sampling, fast_convolutions, largest_norms
from kdiga.certification.weibull import fit_reverse_weibull
from kdiga.data.image_set import to_pixels
from kdiga.model_state import frozen_parameters
from kdiga.runs.provenance import provenance
from kdiga.types import ThreatModel
from kdiga.workflows.loaded_model import load_judged_model, load_test_set
from kdiga.workflows.requests import JudgeRequest, ModelRequest

REFITTED = "kdiga's points, toolbox's fit"
ORDER = {"linf": np.inf, "l2": 2}


@dataclass(frozen=True)
class Bench:
    """Inputs of both."""

    model: Any
    images: Tensor
    labels: Tensor
    norm: str
    radius: float
    batches: int
    batch_size: int


def main() -> None:
    """Time both, and print a table in Markdown."""
    chosen = arguments()
    try:
        from art.estimators.classification import PyTorchClassifier
        from art.metrics import clever_u
    except ImportError as error:
        sys.exit(f"adversarial-robustness-toolbox is not here ({error}); see the first lines of {__file__}.")
    torch.set_num_threads(1)
    bench = prepared(chosen)
    shape = tuple(bench.images.shape[1:])
    with torch.no_grad():
        classes = bench.model(bench.images[:1]).shape[1]
    wrapped = PyTorchClassifier(
        bench.model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=(0, 1),
        device_type="cpu",
    )

    def toolbox(pool_factor: int) -> Callable[[int, int], float]:
        def measure(row: int, seed: int) -> float:
            np.random.seed(seed)
            return float(
                clever_u(
                    wrapped,
                    bench.images[row].numpy(),
                    bench.batches,
                    bench.batch_size,
                    bench.radius,
                    ORDER[bench.norm],
                    pool_factor=pool_factor,
                    verbose=False,
                )
            )

        return measure

    def ours(row: int, seed: int) -> float | None:
        return clever(
            bench.model,
            bench.images[row : row + 1],
            bench.labels[row : row + 1],
            norm=bench.norm,
            max_radius=bench.radius,
            batches=bench.batches,
            batch_size=bench.batch_size,
            seed=seed,
        ).radius[0]

    gains = list[float]()

    def refitted(row: int, seed: int) -> float:
        return toolbox_fit(bench, row, seed, gains)

    ways = {"kdiga": ours, "toolbox, same points": toolbox(bench.batches), "toolbox, own pool": toolbox(10)}
    seconds, radii = measured(ways, len(bench.images), chosen.repeats)
    print(f"{provenance()['hardware']['processor']}, one thread, torch {torch.__version__}, {provenance()['date']}\n")
    print_times(seconds, bench)
    radii[REFITTED] = [[refitted(row, seed) for row in range(len(bench.images))] for seed in range(chosen.repeats)]
    print_radii(radii, bench.radius)
    better, worse = (sum(sign * gain > 0.01 for gain in gains) for sign in (1, -1))
    print(f"\nOn the same maxima kdiga's fit is likelier by over 0.01 nats in {better} of {len(gains)} fits, the other")
    print(f"in {worse}; the gain is {spread(gains)} nats.")


def toolbox_fit(bench: Bench, row: int, seed: int, gains: list[float]) -> float:
    """Return the radius by the toolbox's fit of kdiga's maxima, and append kdiga's gains in likelihood to ``gains``."""
    from art.metrics.metrics import scipy_optimizer
    from scipy.stats import weibull_min

    image, label = bench.images[row], bench.labels[row]
    with frozen_parameters(bench.model), fast_convolutions([bench.model]):
        sampling = Sampling(ThreatModel(bench.norm, bench.radius), bench.batches, bench.batch_size, seed)
        (norms,) = largest_norms([bench.model], image, label, sampling, 0)
    fit = fit_reverse_weibull(norms.T)
    with torch.no_grad():
        margins = ClassScores(bench.model(image[None]), label[None]).margins[0].tolist()
    found = [bench.radius]
    for place, margin in enumerate(margins):
        below = -norms[:, place].double().numpy()
        toolbox = weibull_min.fit(below, 1.0, optimizer=scipy_optimizer)
        found.append(-margin / toolbox[1])
        if not fit.failed[place] and not fit.exact[place]:
            own = (float(fit.shape[place]), -float(fit.location[place]), float(fit.scale[place]))
            gains.append(float(weibull_min.logpdf(below, *own).sum() - weibull_min.logpdf(below, *toolbox).sum()))
    return min(found)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run's folder or a .safetensors file")
    parser.add_argument("--data", help="data set; default: the run's own")
    parser.add_argument("--root", type=Path, help="folder that holds the data")
    parser.add_argument("--norm", choices=sorted(ORDER), help="default: the run's")
    parser.add_argument("--radius", help="largest radius; default: the run's eps")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=10)
    return parser.parse_args()


def prepared(chosen: argparse.Namespace) -> Bench:
    """Return the model and the first images that it gets right."""
    asked = JudgeRequest(data=chosen.data, root=chosen.root, eps=chosen.radius, norm=chosen.norm, examples=500)
    test_set = load_test_set([chosen.model], asked)
    model = load_judged_model(chosen.model, test_set, ModelRequest(device="cpu")).model
    images, labels = to_pixels(test_set.images.images), test_set.images.labels
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).nonzero()[: chosen.examples, 0]
    threat = test_set.threat
    return Bench(model, images[right], labels[right], threat.norm, threat.eps, chosen.batches, chosen.batch_size)


def measured(
    ways: dict[str, Callable[[int, int], float | None]], examples: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[list[float | None]]]]:
    """Return seconds per image by repeat, and radii by repeat and image."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    radii: dict[str, list[list[float | None]]] = {name: [] for name in ways}
    for way in ways.values():
        way(0, 99)  # what is set up once is not timed
    for repeat in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            radii[name].append([way(row, repeat) for row in range(examples)])
            seconds[name].append((time.perf_counter() - started) / examples)
    return seconds, radii


def print_times(seconds: dict[str, list[float]], bench: Bench) -> None:
    """Print seconds and ratios."""
    parameters = sum(parameter.numel() for parameter in bench.model.parameters())
    settings = f"{bench.norm} radius {bench.radius:g}, {bench.batches} batches of {bench.batch_size}"
    print(f"{parameters:,} parameters, {settings}")
    print("\n| | points | seconds an image | times kdiga's |\n|---|---|---|---|")
    points = bench.batches * bench.batch_size
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, seconds["kdiga"], strict=True)]
        drawn = 10 * bench.batch_size if name.endswith("own pool") else points
        print(f"| {name} | {drawn} | {spread(values)} | {spread(ratios)} |")


def print_radii(radii: dict[str, list[list[float | None]]], largest: float) -> None:
    """Print what each image's radii come to, and how often kdiga's mean is within the toolbox's own spread."""
    print("\n| image | " + " | ".join(radii) + " |\n|" + "---|" * (len(radii) + 1))
    pairs = [("kdiga", "toolbox, same points"), (REFITTED, "toolbox, same points")]
    within = dict.fromkeys(pairs, 0)
    compared = 0
    for row in range(len(next(iter(radii.values()))[0])):
        columns = {name: [repeat[row] for repeat in values] for name, values in radii.items()}
        print(f"| {row} | " + " | ".join(summary(values) for values in columns.values()) + " |")
        known = {name: [value for value in values if value is not None] for name, values in columns.items()}
        if any(len(values) < 2 for values in known.values()) or min(map(min, known.values())) >= largest:
            continue
        compared += 1
        for one, two in pairs:
            apart = abs(statistics.mean(known[one]) - statistics.mean(known[two]))
            within[one, two] += (
                apart <= 2 * math.hypot(statistics.stdev(known[one]), statistics.stdev(known[two])) + 1e-4
            )
    print(f"\nOf {compared} images with a radius below the largest, means within two standard deviations of a run:")
    print("; ".join(f"{one} and {two}: {count}" for (one, two), count in within.items()) + ".")


def summary(values: list[float | None]) -> str:
    """Return mean and standard deviation over the repeats."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    missing = f", {len(values) - len(known)} of {len(values)} -" if len(known) < len(values) else ""
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):.4f} ± {deviation:.4f}{missing}"


def spread(values: list[float]) -> str:
    """Return the median with the lowest and the highest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    try:
        main()
    except kdiga.KdigaError as error:
        sys.exit(str(error))
