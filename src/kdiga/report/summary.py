"""One picture of a few models: accuracy against eps, and input gradients. For a README or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdiga.errors import InputError
from kdiga.report.charts import SOFT, dotted_line, draw_line, drawing, percent_axis, write_png
from kdiga.results.attack_names import attack_name, eps_text
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.explanations import ExplanationResult

SHOWN = 5  # images


def write_summary(path: Path, evaluations: Sequence[EvaluationResult], explanation: ExplanationResult) -> None:
    """Draw named evaluations with a sweep, the teacher's first, and their explanation's pictures into a PNG file."""
    gallery, names = explanation.gallery, [evaluation.name for evaluation in evaluations]
    if gallery is None:
        raise InputError("the explanation has no pictures; run `kdiga explain` with --pictures 6.")
    images = gallery.images[:SHOWN]
    labels = ["image"]
    for name, model in zip(names, explanation.models, strict=True):
        cosine = model.gradient.cosine
        labels.append(name if cosine is None else f"{name}\ncos {cosine:.2f}")
    with drawing():
        figure = Figure(figsize=(12.5, 5.2), layout="constrained")
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
        left, right = parts
        _draw_curves(left.subplots(), evaluations)
        rows = [images, *(model.gradient[:SHOWN] for model in gallery.models)]
        _draw_grid(right.subplots(len(rows), len(images), squeeze=False), labels, rows)
        right.suptitle("input gradient of the loss", fontsize=11)
        write_png(path, figure, dpi=110)


def _draw_curves(axes: Axes, evaluations: Sequence[EvaluationResult]) -> None:
    eps, curves = evaluations[0].threat.eps, [one.sweep.curve for one in evaluations if one.sweep]
    dotted_line(axes, eps)
    axes.text(eps, 1.03, f"trained for eps {eps_text(eps)}", ha="center", va="bottom", fontsize=9, color=SOFT)
    for place, (evaluation, curve) in enumerate(zip(evaluations, curves, strict=True), start=-1):
        draw_line(axes, place, curve.at, curve.accuracy, label=evaluation.name)
    axes.set(xlim=(0, max(curves[0].at)), xlabel="eps (pixels in [0, 1])")
    axes.set_ylabel(f"accuracy under {attack_name(curves[0].attack)}")
    percent_axis(axes)
    axes.legend(frameon=False, loc="upper right")


def _draw_grid(grid: Any, labels: Sequence[str], rows: Sequence[np.ndarray]) -> None:
    """Draw images, and below them each model's input gradients: blue where a brighter pixel lowers the loss."""
    for row, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
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
