"""The table, the pictures and the answer of a curve, from its ``curve.json`` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from kdiga.io.atomic_write import write_atomically
from kdiga.io.markdown import safe
from kdiga.report.charts import SERIES, axes_of, file_svg, write_png
from kdiga.report.tables import NOTHING, MeanAndRange, csv_text, markdown_lines, markdown_table, when_and_where
from kdiga.results.attack_names import attack_name, eps_text, strongest
from kdiga.results.shared import command_without_folders
from kdiga.results.studies import AttackedRecord, CurvePoint, CurveResult, CurveRun
from kdiga.statistics import at_most, percent


def write_curve_files(folder: Path, curve: CurveResult, *, pictures: bool = True) -> None:
    """Write ``curve.csv`` and ``curve.md``, and ``curve.png``, ``curve-dark.png`` and ``curve.svg`` if asked."""
    write_atomically(folder / "curve.csv", curve_csv(curve))
    write_atomically(folder / "curve.md", curve_markdown(curve))
    if not pictures:
        return
    for name, dark in (("curve.png", False), ("curve-dark.png", True)):
        write_png(folder / name, draw_curve(curve, dark=dark), dpi=150)
    write_atomically(folder / "curve.svg", file_svg(draw_curve(curve)))


def headings(curve: CurveResult) -> list[str]:
    """Return the names of the table's columns."""
    confirmed = _confirmed_attack(curve)
    return [
        curve.key,
        *(f"{attack_name(attack)}, test" for attack in curve.attacks),
        *([] if confirmed is None else [f"{attack_name(confirmed[0])}, {confirmed[1]} test"]),
        "clean, validation",
        f"{attack_name(curve.validation_attack)}, validation",
        "clean lost, validation",
        "minutes",
        "",
    ]


def _confirmed_attack(curve: CurveResult) -> tuple[str, float] | None:
    """Return the costly attack and its number of images; None where it has not been made."""
    made = [run.confirmed for run in curve.start.runs if run.confirmed]
    attack = strongest(made[0].examples) if made else None
    return None if attack is None else (attack, made[0].examples[attack])


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
    confirmed = _confirmed_attack(curve)
    lost = [-run.validation_change["clean"][0] for run in runs if run.validation_change]
    minutes = [run.minutes for run in runs if run.minutes is not None]
    return [
        label,
        *(_mean(tests, attack) for attack in curve.attacks),
        *([] if confirmed is None else [_mean([run.confirmed for run in runs], confirmed[0])]),
        _mean(validations, "clean"),
        _mean(validations, "robust"),
        f"{100 * statistics.mean(lost):.1f}" if lost else NOTHING,
        f"{statistics.mean(minutes):.1f}" if minutes and any(minutes) else NOTHING,
        remark,
    ]


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
                f"{attack_name(attack)} {percent(measured.accuracy[attack])}, {100 * change:+.1f} points "
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
    lines += [
        *markdown_table(headings(curve), table_rows(curve)),
        "",
        *markdown_lines(command_without_folders(curve.command), about(curve)),
    ]
    return "\n".join([*lines, *([""] if errors else []), *errors]) + "\n"


def about(curve: CurveResult) -> list[str]:
    """Return what was measured, how and where, in lines."""
    images = ", ".join(f"{attack_name(attack)} {count:,}" for attack, count in curve.attacks.items())
    held_out = [run.validation.examples["clean"] for run in curve.start.runs if run.validation]
    data, threat, seeds = curve.data, curve.threat, ", ".join(map(str, curve.seeds))
    what = f"{curve.method} from {curve.student} on {data.name}"
    between = (
        "Interpolation s: the start's weights plus s times what training changed; batch norm's running statistics are "
        "estimated again on training images. "
    )
    return [
        f"`{command_without_folders(curve.command)}`: {curve.done} of {curve.total} runs ended.",
        "",
        f"{what}, {data.training_images:,} training images, {threat.norm} eps {eps_text(threat.eps)}; "
        f"seeds {seeds}; test images: {images}; validation images: {held_out[0] if held_out else NOTHING}.",
        when_and_where(run for part in curve.parts for run in part.runs),
        (between if curve.key == "interpolation" else "")
        + "Percent, mean ± sample standard deviation over seeds. The start is the student before training. Epoch and "
        "point are chosen on validation images, which were held out of this training; where a student was pre-trained "
        "on them, its start seems better there than on test images, so the bound is stricter.",
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


def draw_curve(curve: CurveResult, *, dark: bool = False) -> Figure:
    """Draw clean test accuracy to the right and robust test accuracy upwards, for a light or a dark page.

    Points follow each other as the coefficient rises. A hollow one lost more validation clean accuracy than allowed;
    a ring is around the chosen one, a star marks the start.
    """
    ink, attack = DARK if dark else LIGHT, strongest(curve.attacks) or "clean"
    figure, axes = axes_of(5.6, 4.2)
    figure.set_facecolor(ink.paper)
    axes.set_facecolor(ink.paper)
    axes.set_xlabel("clean accuracy on test images (%)", color=ink.text)
    axes.set_ylabel(f"accuracy under {attack_name(attack)} (%)", color=ink.text)
    axes.grid(color=ink.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink.soft)
    axes.tick_params(colors=ink.soft, labelcolor=ink.text)
    axes.margins(0.15)
    points = list[tuple[float, float]]()
    for part in curve.parts:
        tests = [run.test for run in part.runs if run.test]
        if not tests:
            continue
        x, y = (100 * statistics.mean(test.accuracy[name] for test in tests) for name in ("clean", attack))
        label = "start" if part is curve.start else f"{part.value:g}"
        axes.annotate(label, (x, y), xytext=(7, 7), textcoords="offset points", color=ink.text, fontsize=8.5)
        if part is curve.start:
            axes.axvline(x, color=ink.soft, linewidth=0.8, linestyle=":", zorder=1)
            axes.plot(x, y, "*", color=ink.start, markersize=13, zorder=4)
            continue
        points.append((x, y))
        if part.value == curve.answer.value:
            axes.plot(x, y, "o", markersize=14, fillstyle="none", color=ink.curve, zorder=3)
        if len(tests) == 1:
            ends = [100 * end for end in tests[0].interval_95[attack]]
            axes.plot([x, x], ends, color=ink.curve, linewidth=1, alpha=0.45, zorder=2)
        face = ink.curve if _within(curve, part) else ink.paper
        axes.plot(x, y, "o", markersize=7, color=ink.curve, markerfacecolor=face, zorder=4)
    if points:
        axes.plot(*zip(*points, strict=True), color=ink.curve, linewidth=1, zorder=2)
    return figure


def _within(curve: CurveResult, point: CurvePoint) -> bool:
    """Return whether a point lost no more clean validation accuracy than allowed."""
    changes = [run.validation_change["clean"][0] for run in point.runs if run.validation_change]
    return bool(changes) and at_most(-statistics.mean(changes), curve.at_most / 100)
