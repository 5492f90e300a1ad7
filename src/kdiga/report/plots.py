"""The pictures of a report, drawn from plain numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# After Okabe and Ito: told apart by colour-blind readers, on white and on the dark page.
COLOURS = {"teacher": "#7B3FA0", "ce": "#999999", "kd": "#D55E00", "kdiga": "#0072B2", "tangent": "#009E73"}
SPARE = ("#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def colour(name: str, position: int) -> str:
    """Return a model's colour: its own, or a spare one by position."""
    return COLOURS.get(name, SPARE[position % len(SPARE)])


def accuracy_curve(curves: Mapping[str, Any], eps: float, *, width: float = 7.2) -> Figure:
    """Draw accuracy against eps, a line a model, labelled at its end.

    Args:
        curves: "eps", and "accuracy" by model, in [0, 1].
        eps: of the threat model, marked by a vertical line.
        width: in inches.
    """
    figure = Figure(figsize=(width, width * 0.6), layout="constrained")
    draw_curve(figure.add_subplot(), curves, eps)
    return figure


def draw_curve(axes: Axes, curves: Mapping[str, Any], eps: float) -> None:
    """Draw :func:`accuracy_curve` into axes."""
    axes.axvline(eps, color="#888888", linewidth=1, linestyle=":")
    axes.text(eps, 1.03, f"trained for eps {eps:g}", ha="center", va="bottom", fontsize=9, color="#555555")
    for position, (name, accuracy) in enumerate(curves["accuracy"].items()):
        axes.plot(
            curves["eps"], accuracy, label=name, color=colour(name, position), linewidth=2, markersize=5,
            marker=MARKERS[position % len(MARKERS)],
        )  # fmt: skip
    axes.set(xlim=(0, max(curves["eps"])), ylim=(0, 1.02), xlabel="eps (pixels in [0, 1])")
    axes.set_ylabel(f"accuracy under {curves['attack'].upper()}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")


def gradient_grid(
    images: np.ndarray, gradients: Mapping[str, np.ndarray], cosines: Mapping[str, float], *, size: float = 1.0
) -> Figure:
    """Draw input gradients of several models at the same images, side by side.

    Args:
        images: (example, channel, height, width), pixels in [0, 1]; the first row.
        gradients: by model, like the images; a row each, blue where a brighter pixel lowers the loss.
        cosines: by model, with the first model's gradients, over the whole test set.
        size: of one picture in inches.
    """
    figure = Figure(figsize=(size * (len(images) + 1.3), size * (len(gradients) + 1)), layout="constrained")
    rows: list[tuple[str, np.ndarray]] = [("image", images), *gradients.items()]
    grid: Any = figure.subplots(len(rows), len(images), squeeze=False)
    draw_grid(grid, rows, cosines)
    return figure


def draw_grid(grid: Any, rows: Sequence[tuple[str, np.ndarray]], cosines: Mapping[str, float]) -> None:
    """Draw :func:`gradient_grid` into a grid of axes, the first row being images, the second the reference."""
    for row, (name, pictures) in enumerate(rows):
        for column, picture in enumerate(pictures):
            axes = grid[row][column]
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.imshow(np.moveaxis(picture, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=1)
                continue
            summed = picture.sum(0)
            # Each on its own scale: confident models have tiny gradients, and here the direction matters.
            largest = float(np.abs(summed).max()) or 1.0
            axes.imshow(summed, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        label = name if row < 2 else f"{name}\ncos {cosines[name]:.2f}"
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)


def summary_picture(
    curves: Mapping[str, Any],
    eps: float,
    images: np.ndarray,
    gradients: Mapping[str, np.ndarray],
    cosines: Mapping[str, float],
) -> Figure:
    """Draw curve and gradients into one picture, for a README or a slide."""
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = parts
    draw_curve(left.subplots(), curves, eps)
    shown = images[:5]
    rows = [("image", shown), *((name, gradient[:5]) for name, gradient in gradients.items())]
    draw_grid(right.subplots(len(rows), len(shown), squeeze=False), rows, cosines)
    right.suptitle("input gradient of the loss", fontsize=11)
    return figure


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, the same bytes for the same numbers."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "kdiga", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def to_png_uri(figure: Figure, dpi: int = 160) -> str:
    """Return a figure as a data URI."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
