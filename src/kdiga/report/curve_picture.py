"""Robust against clean accuracy: a point a value of the coefficient, the start marked, in light and dark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdiga.report.charts import SERIES
from kdiga.report.labels import Label, main_attack, place_labels
from kdiga.results.attack_names import attack_name
from kdiga.results.studies import CurvePoint, CurveResult


@dataclass(frozen=True)
class Ink:
    """The colours of a picture: paper, letters, what is less important, grid, the curve and the start."""

    paper: str
    text: str
    soft: str
    grid: str
    curve: str
    start: str


LIGHT = Ink("#ffffff", "#1a1a1a", "#5f6064", "#e5e5e5", SERIES[0][0], SERIES[1][0])
DARK = Ink("#16181c", "#ececec", "#a9abb2", "#34373d", SERIES[0][1], SERIES[1][1])


@dataclass(frozen=True)
class Spot:
    """A point of the picture, in percent: accuracies on test images, means over seeds."""

    label: str
    clean: float
    robust: float
    low: float | None  # 95 % interval of robust accuracy; None for several runs
    high: float | None
    within: bool  # whether it lost no more clean validation accuracy than allowed
    chosen: bool  # whether it is the answer


def draw_curve(curve: CurveResult, *, dark: bool = False) -> Figure:
    """Draw clean test accuracy to the right and robust test accuracy upwards.

    Points follow each other as the coefficient rises. A hollow one lost more validation clean accuracy than allowed;
    a ring is around the chosen one, a star marks the start.

    Args:
        curve: Content of ``curve.json``.
        dark: Whether the picture is for a dark page.
    """
    ink = DARK if dark else LIGHT
    figure = Figure(figsize=(5.6, 4.2), layout="constrained", facecolor=ink.paper)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=ink.paper)
    attack = main_attack([name for name in curve.attacks if name != "clean"] or ["clean"])
    spots, start = _spots(curve, attack), _spot(curve.start, attack, "start", within=True, chosen=False)
    _paint(axes, ink)
    axes.set_xlabel("clean accuracy on test images (%)", color=ink.text)
    axes.set_ylabel(f"accuracy under {attack_name(attack)} (%)", color=ink.text)
    labels = [_mark(axes, spot, ink) for spot in spots]
    axes.plot([spot.clean for spot in spots], [spot.robust for spot in spots], color=ink.curve, linewidth=1, zorder=2)
    if start is not None:
        axes.axvline(start.clean, color=ink.soft, linewidth=0.8, linestyle=":", zorder=1)
        axes.plot(start.clean, start.robust, "*", color=ink.start, markersize=13, zorder=4)
        labels.append(Label("start", start.clean, start.robust, 0.0, ink.start))
    _limits(axes, [*spots, *([start] if start else [])])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are measured where the axes are now
    place_labels(axes, labels)
    return figure


def _spots(curve: CurveResult, attack: str) -> list[Spot]:
    found: list[Spot | None] = []
    for point in curve.points:
        changes = [run.validation_change["clean"][0] for run in point.runs if run.validation_change]
        within = bool(changes) and -statistics.mean(changes) <= curve.at_most / 100 + 1e-9
        chosen = curve.answer.value == point.value
        found.append(_spot(point, attack, f"{point.value:g}", within=within, chosen=chosen))
    return [spot for spot in found if spot is not None]


def _spot(part: CurvePoint, attack: str, label: str, *, within: bool, chosen: bool) -> Spot | None:
    tests = [run.test for run in part.runs if run.test]
    if not tests:
        return None
    clean, robust = (100 * statistics.mean(test.accuracy[name] for test in tests) for name in ("clean", attack))
    low, high = (100 * end for end in tests[0].interval_95[attack]) if len(tests) == 1 else (None, None)
    return Spot(label, clean, robust, low, high, within, chosen)


def _mark(axes: Axes, spot: Spot, ink: Ink) -> Label:
    if spot.chosen:
        axes.plot(spot.clean, spot.robust, "o", markersize=14, fillstyle="none", color=ink.curve, zorder=3)
    if spot.low is not None and spot.high is not None:
        axes.plot([spot.clean] * 2, [spot.low, spot.high], color=ink.curve, linewidth=1, alpha=0.45, zorder=2)
    axes.plot(
        spot.clean,
        spot.robust,
        "o",
        markersize=7,
        color=ink.curve,
        zorder=4,
        markerfacecolor=ink.curve if spot.within else ink.paper,
    )
    return Label(spot.label, spot.clean, spot.robust, 0.0, ink.text)


def _paint(axes: Axes, ink: Ink) -> None:
    axes.grid(color=ink.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(ink.soft)
    axes.tick_params(colors=ink.soft, labelcolor=ink.text)


def _limits(axes: Axes, spots: Sequence[Spot]) -> None:
    """Leave room for labels, also around a single point."""
    if not spots:
        return
    clean = [spot.clean for spot in spots]
    robust = [end for spot in spots for end in (spot.robust, spot.low, spot.high) if end is not None]
    across, up = max(1.0, 0.15 * (max(clean) - min(clean))), max(2.0, 0.06 * (max(robust) - min(robust)))
    axes.set_xlim(min(clean) - across, max(clean) + across)
    axes.set_ylim(max(min(robust) - up, -3.0), min(max(robust) + up, 103.0))
