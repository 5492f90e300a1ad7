"""One picture of a few models: accuracy against eps, and input gradients. For a README or a slide."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdiga.report.charts import MARKERS
from kdiga.results.attack_names import attack_name

# After Okabe and Ito: told apart by colour-blind readers.
COLOURS = ("#7B3FA0", "#999999", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHOWN = 5  # images


def write_summary(path: Path, evaluations: Sequence[Mapping[str, Any]], explanation: Path) -> None:
    """Draw the picture into a PNG.

    Args:
        path: of the picture.
        evaluations: contents of ``evaluation.json`` with a sweep, each with a "name"; the teacher's first.
        explanation: an ``explanation.json`` of the same models in the same order, with pictures.
    """
    content = json.loads(explanation.read_text())
    cosines = [model["gradient"].get("cosine") for model in content["models"]]
    names = [evaluation["name"] for evaluation in evaluations]
    with np.load(explanation.with_name(content["pictures"])) as arrays:
        images = arrays["images"][:SHOWN]
        gradients = [arrays[f"gradient_{place}"][:SHOWN] for place in range(len(names))]
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = parts
    _draw_curves(left.subplots(), evaluations)
    _draw_grid(right.subplots(len(names) + 1, len(images), squeeze=False), images, names, gradients, cosines)
    right.suptitle("input gradient of the loss", fontsize=11)
    figure.savefig(path, dpi=110)


def _draw_curves(axes: Axes, evaluations: Sequence[Mapping[str, Any]]) -> None:
    eps = evaluations[0]["threat"]["eps"]
    axes.axvline(eps, color="#888888", linewidth=1, linestyle=":")
    axes.text(eps, 1.03, f"trained for eps {eps:g}", ha="center", va="bottom", fontsize=9, color="#555555")
    for place, evaluation in enumerate(evaluations):
        sweep = evaluation["sweep"]
        axes.plot(
            sweep["eps"],
            sweep["accuracy"],
            label=evaluation["name"],
            color=COLOURS[place % len(COLOURS)],
            linewidth=2,
            markersize=5,
            marker=MARKERS[place % 7],
        )
    sweep = evaluations[0]["sweep"]
    axes.set(xlim=(0, max(sweep["eps"])), ylim=(0, 1.02), xlabel="eps (pixels in [0, 1])")
    axes.set_ylabel(f"accuracy under {attack_name(sweep['attack'])}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")


def _draw_grid(
    grid: Any,
    images: np.ndarray,
    names: Sequence[str],
    gradients: Sequence[np.ndarray],
    cosines: Sequence[float | None],
) -> None:
    """Draw images, and below them each model's input gradients: blue where a brighter pixel lowers the loss."""
    labels = ["image"]
    for name, cosine in zip(names, cosines, strict=True):
        labels.append(name if cosine is None else f"{name}\ncos {cosine:.2f}")
    for row, (label, pictures) in enumerate(zip(labels, [images, *gradients], strict=True)):
        for axes, picture in zip(grid[row], pictures, strict=True):
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.imshow(np.moveaxis(picture, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=1)
                continue
            summed = picture.sum(0)
            # Each on its own scale: confident models have tiny gradients, and here the direction matters.
            largest = float(np.abs(summed).max()) or 1.0
            axes.imshow(summed, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
