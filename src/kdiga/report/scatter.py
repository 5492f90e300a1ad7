"""Robust accuracy against the cost of training, a labelled point a method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kdiga.report.plots import MARKERS
from kdiga.results.attack_names import attack_name

# After Okabe and Ito, and three more; a method's colour and marker are its place in the study.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7B3FA0", "#E69F00", "#56B4E9", "#8C564B", "#555555")
STRONGEST = "autoattack"
# Where a label may stand, as angle in degrees and distance in points from its own: near and to the right first.
PLACES = [(angle, reach) for reach in (8, 14, 26, 40, 55, 75, 100) for angle in (0, 40, -40, 180, 140, -140, 90, -90)]
CLOSE, SIZE = 14, 8.5  # beyond so many points a line leads to the label; size of its letters


@dataclass(frozen=True)
class Label:
    """A point's name.

    Args:
        text: the name.
        x: of the point, in data units.
        y: the same.
        spread: half the length of its error bar.
        ink: colour.
    """

    text: str
    x: float
    y: float
    spread: float
    ink: str


class _Score(Protocol):
    @property
    def mean(self) -> float: ...
    @property
    def deviation(self) -> float | None: ...


class _Row(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def teacher(self) -> bool: ...
    @property
    def accuracy(self) -> Mapping[tuple[str, str], Any]: ...


def scatter(
    content: Mapping[str, Any], rows: Sequence[tuple[_Row, Mapping[str, float | None]]], *, stacked: bool = False
) -> Figure:
    """Draw a panel a cost; teachers are lines, for their cost is not the methods'.

    Args:
        content: of ``study.json``.
        rows: of the table, each with its costs by name; a cost that no row has gets no panel.
        stacked: panels below each other, not side by side.
    """
    attack = panel_size(list(content["attacks"]))
    which = "best" if "best" in content["which"] else content["which"][0]
    costs = [name for name in rows[0][1] if any(not row.teacher and cost[name] for row, cost in rows)]
    across, down = (1, max(1, len(costs))) if stacked else (max(1, len(costs)), 1)
    figure = Figure(figsize=(7.2 * across, 6.2 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(down, across, squeeze=False, sharey=True)
    labels: list[tuple[Axes, list[Label]]] = []
    for axes, name in zip(panels.flat, costs or ["no run is finished"], strict=True):
        points = [(row, cost.get(name), row.accuracy[which, attack]) for row, cost in rows]
        labels.append((axes, _draw(axes, points)))
        axes.set(xlabel=name)
    for row in panels:
        row[0].set_ylabel(f"accuracy under {attack_name(attack)}, {which} weights (%)")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are measured where the axes are now
    lines = [100 * row.accuracy[which, attack].mean for row, _ in rows if row.teacher and row.accuracy[which, attack]]
    for axes, found in labels:
        place_labels(axes, found, lines)
    return figure


def panel_size(attacks: Sequence[str]) -> str:
    """Return the attack that counts: AutoAttack, else the last named."""
    return STRONGEST if STRONGEST in attacks else attacks[-1]


def _draw(axes: Axes, points: Sequence[tuple[_Row, float | None, Any]]) -> list[Label]:
    labels: list[Label] = []
    scores = [100 * score.mean for _, _, score in points if score is not None]
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:,.12g}")  # 0.5, not 5 x 10^-1
    axes.xaxis.set_minor_formatter("{x:,.12g}")
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    position = -1
    for row, cost, score in points:
        if row.teacher:
            _line(axes, row.label, score, scores)
            continue
        position += 1
        if score is None or not cost:
            continue
        ink = COLOURS[position % len(COLOURS)]
        spread = None if score.deviation is None else 100 * score.deviation
        axes.errorbar(
            cost,
            100 * score.mean,
            yerr=spread,
            color=ink,
            marker=MARKERS[position % len(MARKERS)],
            markersize=7,
            capsize=3,
            linewidth=1.2,
            linestyle="none",
        )
        labels.append(Label(row.label, cost, 100 * score.mean, spread or 0.0, ink))
    _limits(axes, [label.x for label in labels], scores)
    return labels


def _limits(axes: Axes, costs: Sequence[float], scores: Sequence[float]) -> None:
    """Leave room for labels, also around a single point."""
    if costs:
        margin = max(1.5, (max(costs) / min(costs)) ** 0.2)
        axes.set_xlim(min(costs) / margin, max(costs) * margin)
    if scores:
        margin = max(5.0, 0.15 * (max(scores) - min(scores)))
        axes.set_ylim(min(scores) - margin, max(scores) + margin)


def _line(axes: Axes, label: str, score: _Score | None, scores: Sequence[float]) -> None:
    if score is None:
        return
    height = 100 * score.mean
    axes.axhline(height, color="#888888", linewidth=1, linestyle="--", zorder=1)
    # The cheap methods on the left are the least robust; so a robust teacher's name is free there.
    left = height >= statistics.median(scores)
    axes.annotate(
        f"teacher {label}",
        (0.0 if left else 1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(4 if left else -4, 3),
        textcoords="offset points",
        fontsize=SIZE,
        color="#555555",
        ha="left" if left else "right",
    )


def place_labels(axes: Axes, labels: Sequence[Label], lines: Sequence[float] = ()) -> np.ndarray:
    """Write each point's label beside it, where it covers no other label and no point.

    Args:
        axes: drawn once, so that places are known.
        labels: one a point.
        lines: heights of horizontal lines, in data units.

    Returns:
        The labels' boxes in pixels, (label, 4): left, bottom, right, top.
    """
    figure: Any = axes.figure
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    taken = [text.get_window_extent(renderer).extents for text in axes.texts]
    centers = [axes.transData.transform((label.x, label.y)) for label in labels]
    for label, (x, y) in zip(labels, centers, strict=True):
        low, high = (axes.transData.transform((label.x, label.y + side * label.spread))[1] for side in (-1, 1))
        taken += [np.array([x - 6, y - 6, x + 6, y + 6]), np.array([x - 4, low, x + 4, high])]  # marker, error bar
    room, boxes = np.array(axes.get_window_extent(renderer).extents), list[np.ndarray]()
    heights = (axes.transData.transform((1.0, line))[1] for line in lines)
    taken += [np.array([room[0], height - 1, room[2], height + 1]) for height in heights]
    offsets = [_offset(*place) for place in PLACES]
    for label, center in zip(labels, centers, strict=True):
        size = _size(axes, label.text, renderer)
        found = np.array([_box(center, np.array(offset) * scale, size) for offset in offsets])
        best = int(_covered(found, np.array([*taken, *boxes]), room).argmin())
        boxes.append(found[best])
        _write(axes, label, offsets[best], line=PLACES[best][1] > CLOSE)
    return np.array(boxes)


def _offset(angle: float, reach: float) -> tuple[float, float]:
    return math.cos(math.radians(angle)) * reach, math.sin(math.radians(angle)) * reach


def _side(offset: float) -> int:
    return int(offset > 1) - int(offset < -1)


def _size(axes: Axes, text: str, renderer: Any) -> np.ndarray:
    note = axes.text(0, 0, text, fontsize=SIZE)
    box = note.get_window_extent(renderer)
    note.remove()
    return np.array([box.width, box.height])


def _box(point: np.ndarray, offset: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return where a text of this size lies, on the side of the point that the offset points to."""
    corner = point + offset + (np.array([_side(part) for part in offset]) - 1) / 2 * size
    return np.concatenate([corner, corner + size])


def _write(axes: Axes, label: Label, offset: tuple[float, float], *, line: bool) -> None:
    right, up = offset
    style = {"arrowstyle": "-", "color": label.ink, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
    axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=offset,
        textcoords="offset points",
        fontsize=SIZE,
        color=label.ink,
        ha=("center", "left", "right")[_side(right)],
        va=("center", "bottom", "top")[_side(up)],
        arrowprops=style if line else None,
    )


def _covered(boxes: np.ndarray, taken: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Return the area of each box that others cover, or that is outside the axes."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    outside = areas - _shared(boxes, room[None])[:, 0]
    return _shared(boxes, taken).sum(1) + np.where(outside > 1e-6 * areas, outside, 0)


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(min=0).prod(2)
