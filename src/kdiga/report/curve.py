"""The table, the pictures and the answer of a curve, from its ``curve.json`` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdiga.io.atomic_write import write_atomically
from kdiga.io.markdown import safe
from kdiga.report.charts import SERIES, file_svg, write_png
from kdiga.report.labels import Label, main_attack, place_labels
from kdiga.report.tables import NOTHING, MeanAndRange, csv_text, markdown_lines, markdown_table, when_and_where
from kdiga.results.attack_names import attack_name
from kdiga.results.studies import AttackedRecord, CurvePoint, CurveResult, CurveRun


def write_curve_files(folder: Path, curve: CurveResult, *, pictures: bool = True) -> None:
    """Write ``curve.csv`` and ``curve.md``, and ``curve.png``, ``curve-dark.png`` and ``curve.svg``.

    Args:
        folder: Folder of the curve.
        curve: Content of ``curve.json``.
        pictures: False leaves the pictures as they are; drawing them takes seconds.
    """
    write_atomically(folder / "curve.csv", curve_csv(curve))
    write_atomically(folder / "curve.md", curve_markdown(curve))
    if not pictures:
        return
    for name, dark in (("curve.png", False), ("curve-dark.png", True)):
        write_png(folder / name, draw_curve(curve, dark=dark), dpi=150)
    write_atomically(folder / "curve.svg", file_svg(draw_curve(curve)))


def headings(curve: CurveResult) -> list[str]:
    """Return the names of the table's columns."""
    confirmed = _confirmed_heading(curve)
    return [
        curve.key,
        *(f"{attack_name(attack)}, test" for attack in curve.attacks),
        *([] if confirmed is None else [confirmed]),
        "clean, validation",
        f"{attack_name(curve.validation_attack)}, validation",
        "clean lost, validation",
        "minutes",
        "",
    ]


def _confirmed_heading(curve: CurveResult) -> str | None:
    """Return the heading of the costly attack's column; None where it has not been made."""
    made = [run.confirmed for run in curve.start.runs if run.confirmed]
    if not made:
        return None
    attack, examples = next((name, count) for name, count in made[0].examples.items() if name != "clean")
    return f"{attack_name(attack)}, {examples} test"


def table_rows(curve: CurveResult) -> list[list[str]]:
    """Return the table's lines, the start first; percent, means over seeds."""
    rows = [_row("start", curve.start.runs, curve, "")]
    for point in curve.points:
        states = [run.status for run in point.runs if run.status != "done"]
        remark = ", ".join(dict.fromkeys(states)) or ("chosen" if point.value == curve.answer.value else "")
        rows.append(_row(f"{point.value:g}", point.runs, curve, remark))
    return rows


def _row(label: str, runs: Sequence[CurveRun], curve: CurveResult, remark: str) -> list[str]:
    tests, validations = [run.test for run in runs], [run.validation for run in runs]
    confirmed = [_mean([run.confirmed], _costly(run)) for run in runs[:1]] if _confirmed_heading(curve) else []
    lost = [-run.validation_change["clean"][0] for run in runs if run.validation_change]
    minutes = [run.minutes for run in runs if run.minutes is not None]
    return [
        label,
        *(_mean(tests, attack) for attack in curve.attacks),
        *confirmed,
        _mean(validations, "clean"),
        _mean(validations, "robust"),
        f"{100 * statistics.mean(lost):.1f}" if lost else NOTHING,
        f"{statistics.mean(minutes):.1f}" if minutes and any(minutes) else NOTHING,
        remark,
    ]


def _costly(run: CurveRun) -> str:
    return next((name for name in (run.confirmed.accuracy if run.confirmed else {}) if name != "clean"), "")


def _mean(measured: Sequence[AttackedRecord | None], attack: str) -> str:
    found = MeanAndRange.of([one.accuracy[attack] for one in measured if one and attack in one.accuracy])
    return NOTHING if found is None else found.percent()


def answer_lines(curve: CurveResult) -> list[str]:
    """Return the answer in sentences: what was gained at a bounded loss of clean accuracy, or that nothing was."""
    answer, bound = curve.answer, f"at most {curve.at_most:g} points of validation clean accuracy"
    if not answer.settled:
        return [f"No answer yet: {curve.done} of {curve.total} runs have ended."]
    if not answer.achieved:
        return [f"Not achieved at a loss of {bound}: {answer.why}."]
    point = next(point for point in curve.points if point.value == answer.value)
    lost = statistics.mean(-run.validation_change["clean"][0] for run in point.runs if run.validation_change)
    moved = f"lost {100 * lost:.1f} there" if lost > 0 else f"lost none there ({100 * -lost:+.1f} points)"
    lines = [f"Most robust on validation images at a loss of {bound}: {curve.key} {answer.value:g}, which {moved}."]
    for run in point.runs:
        seed = f", seed {run.seed}" if len(point.runs) > 1 else ""
        changes = "; ".join(_changes(run))
        lines.append(f"On test images, against the start{seed}: {changes} (95 % intervals, paired).")
    return lines


def _changes(run: CurveRun) -> Iterator[str]:
    for measured, changes in ((run.test, run.test_change), (run.confirmed, run.confirmed_change)):
        for attack, (change, low, high) in (changes or {}).items():
            if measured is None or (measured is run.confirmed and attack == "clean"):
                continue
            yield (
                f"{attack_name(attack)} {measured.accuracy[attack]:.1%}, {100 * change:+.1f} points "
                f"[{100 * low:+.1f}, {100 * high:+.1f}] on {measured.examples[attack]:,} images"
            )


def curve_markdown(curve: CurveResult) -> str:
    """Return ``curve.md``: the answer, the table and what is needed to believe them."""
    errors = [
        f"- {safe(run.folder)} {safe(run.status)}: {safe(run.error)}"
        for part in curve.parts
        for run in part.runs
        if run.error
    ]
    lines = [f"# {safe(curve.title)}", "", *map(safe, answer_lines(curve)), ""]
    lines += [*markdown_table(headings(curve), table_rows(curve)), "", *markdown_lines(curve.command, about(curve))]
    return "\n".join([*lines, *([""] if errors else []), *errors]) + "\n"


def about(curve: CurveResult) -> list[str]:
    """Return what was measured, how and where, in lines."""
    images = ", ".join(f"{attack_name(attack)} {count:,}" for attack, count in curve.attacks.items())
    held_out = [run.validation.examples["clean"] for run in curve.start.runs if run.validation]
    data, threat, seeds = curve.data, curve.threat, ", ".join(map(str, curve.seeds))
    what = f"{curve.method} from {curve.student} on {data.name}"
    return [
        f"`{curve.command}`: {curve.done} of {curve.total} runs ended.",
        "",
        f"{what}, {data.training_images:,} training images, {threat.norm} eps {threat.eps:.4g}; "
        f"seeds {seeds}; test images: {images}; validation images: {held_out[0] if held_out else NOTHING}.",
        when_and_where(run for part in curve.parts for run in part.runs),
        "Percent, mean ± sample standard deviation over seeds. The start is the student before training. Epoch and "
        "point are chosen on validation images, which were held out of this training; where a student was pre-trained "
        "on them, its start looks better there than on test images, and the bound is the stricter for it.",
    ]


def curve_csv(curve: CurveResult) -> str:
    """Return ``curve.csv``: a line a run, shares in [0, 1]."""
    attacks = list(curve.attacks)
    names = [
        curve.key,
        *("seed", "status", "folder"),
        *(f"{attack}_test" for attack in attacks),
        *("clean_validation", "robust_validation", "clean_change_validation"),
        *(f"{attack}_change_test{part}" for attack in attacks for part in ("", "_low", "_high")),
        *("best_epoch", "minutes", "chosen"),
    ]
    return csv_text(names, (_csv_row(part.value, run, curve) for part in curve.parts for run in part.runs))


def _csv_row(value: float | None, run: CurveRun, curve: CurveResult) -> list[object]:
    test, validation = (one.accuracy if one else {} for one in (run.test, run.validation))
    changes = run.test_change or {}
    return [
        "start" if value is None else f"{value:g}",
        run.seed,
        run.status,
        run.folder,
        *(test.get(attack) for attack in curve.attacks),
        validation.get("clean"),
        validation.get("robust"),
        (run.validation_change or {"clean": [None]})["clean"][0],
        *(part for attack in curve.attacks for part in changes.get(attack, (None, None, None))),
        run.best_epoch,
        run.minutes,
        int(value is not None and value == curve.answer.value),
    ]


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
