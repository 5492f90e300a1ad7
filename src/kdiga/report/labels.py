"""Labels of points in a picture, which cover neither each other nor points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

STRONGEST = "autoattack"
# Where a label may stand, as angle in degrees and distance in points from its own: near and to the right first.
PLACES = [(angle, reach) for reach in (8, 14, 26, 40, 55, 75, 100) for angle in (0, 40, -40, 180, 140, -140, 90, -90)]
CLOSE, SIZE = 14, 8.5  # beyond so many points a line leads to the label; size of its letters


@dataclass(frozen=True)
class Label:
    """A point's label; places are in data units."""

    text: str
    x: float
    y: float
    spread: float  # half the length of the error bar
    ink: str


def main_attack(attacks: Sequence[str]) -> str:
    """Return the attack that counts: AutoAttack, else the last named."""
    return STRONGEST if STRONGEST in attacks else attacks[-1]


def place_labels(axes: Axes, labels: Sequence[Label], lines: Sequence[float] = ()) -> np.ndarray:
    """Write each label next to its point, where it covers no other label and no point.

    Args:
        axes: Axes, drawn once, so that places are known.
        labels: Label of each point.
        lines: Heights of horizontal lines, in data units.

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
