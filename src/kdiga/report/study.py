"""A study's tables, picture and section of the page, from its ``study.json`` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kdiga.errors import InputError
from kdiga.io.atomic_write import write_atomically
from kdiga.io.markdown import safe
from kdiga.report.blocks import Plot, Section, Table, TableCell
from kdiga.report.charts import MARKERS, drawing, file_svg, inline_svg, write_png
from kdiga.report.labels import SIZE, Label, main_attack, place_labels
from kdiga.report.tables import NOTHING, MeanAndRange, csv_text, markdown_lines, markdown_table, when_and_where
from kdiga.results.attack_names import attack_name
from kdiga.results.fields import DamagedError
from kdiga.results.studies import StudyEntry, StudyResult, TuningChoice

OF_A_RUN = ("seed", "status", "folder", "epochs", "best_epoch", "parameters", "minutes")
COSTS = ("minutes", "student passes", "teacher passes")
# After Okabe and Ito, and three more; a method's colour and marker are its place in the study.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7B3FA0", "#E69F00", "#56B4E9", "#8C564B", "#555555")


@dataclass(frozen=True)
class StudyRow:
    """A line of the table."""

    label: str
    teacher: bool
    runs: str  # number of finished runs, and what became of the others
    accuracy: Mapping[tuple[str, str], MeanAndRange | None]  # by weights and attack, such as ("best", "clean")
    costs: Mapping[str, float | None]  # minutes and passes of a run, means over seeds

    def texts(self) -> list[str]:
        """Return the line's cells."""
        name = f"{self.label} (teacher)" if self.teacher else self.label
        scores = [NOTHING if found is None else found.percent() for found in self.accuracy.values()]
        minutes, *passes = self.costs.values()
        return [
            name,
            self.runs,
            *scores,
            NOTHING if minutes is None else f"{minutes:.2f}",
            *(NOTHING if count is None else f"{count:,.0f}" for count in passes),
        ]

    def drawn_costs(self) -> dict[str, float | None]:
        """Return the costs that the picture shows, by name."""
        passes = [self.costs[f"{role} passes"] for role in ("student", "teacher")]
        total = None if None in passes else sum(count or 0.0 for count in passes)
        return {"network passes in training": total, "minutes of training": self.costs["minutes"]}


def read_study(folder: Path) -> StudyResult:
    """Return the study in a folder.

    Raises:
        InputError: if there is none.
    """
    path = folder / "study.json"
    try:
        return StudyResult.read(path)
    except DamagedError as error:
        raise InputError(f"{str(path)!r} has no readable study ({error}); run `kdiga study FILE`.") from None


def _columns(study: StudyResult) -> list[tuple[str, str]]:
    return [(which, attack) for which in study.which for attack in study.attacks]


def headings(study: StudyResult) -> list[str]:
    """Return the names of the table's columns."""
    return ["method", "runs", *(f"{attack_name(attack)}, {which}" for which, attack in _columns(study)), *COSTS]


def table_rows(study: StudyResult) -> list[StudyRow]:
    """Return the table of a study, teachers first."""
    return [_row(entry, _columns(study), teacher=role == "teacher") for role, entry in study.entries]


def _row(entry: StudyEntry, columns: Sequence[tuple[str, str]], *, teacher: bool) -> StudyRow:
    done = [run for run in entry.runs if run.status == "done"]
    counts = {state: sum(run.status == state for run in entry.runs) for state in ("diverged", "failed")}
    others = [f"{count} {state}" for state, count in counts.items() if count]
    accuracy = {
        (which, attack): MeanAndRange.of(
            [run.accuracy[which][attack] for run in done if attack in run.accuracy.get(which, {})]
        )
        for which, attack in columns
    }
    costs = {
        "minutes": _mean([run.minutes for run in done]),
        **{f"{role} passes": _mean([run.passes_of(role) for run in done]) for role in ("student", "teacher")},
    }
    return StudyRow(entry.label, teacher, ", ".join([f"{len(done)}/{len(entry.runs)}", *others]), accuracy, costs)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def write_tables(folder: Path, *, pictures: bool = True) -> None:
    """Write ``cells.csv``, ``table.md``, ``scatter.png`` and ``scatter.svg`` from ``study.json``.

    Args:
        folder: Folder of the study.
        pictures: False leaves the pictures as they are; drawing them takes seconds.

    Raises:
        InputError: if there is no readable ``study.json``.
    """
    study = read_study(folder)
    write_atomically(folder / "cells.csv", _runs_csv(study))
    write_atomically(folder / "table.md", table_markdown(study))
    if not pictures:
        return
    figure = scatter(study)
    write_png(folder / "scatter.png", figure, dpi=130)
    write_atomically(folder / "scatter.svg", file_svg(figure))


def _runs_csv(study: StudyResult) -> str:
    columns = _columns(study)
    scores = [f"{attack}_{which}" for which, attack in columns]
    return csv_text(
        ["label", "role", "method", *OF_A_RUN, "student_passes", "teacher_passes", *scores, "error"],
        (
            [
                entry.label,
                role,
                entry.method,
                *(getattr(run, key) for key in OF_A_RUN),
                *(run.passes_of(one) for one in ("student", "teacher")),
                *(run.accuracy.get(which, {}).get(attack) for which, attack in columns),
                run.error,
            ]
            for role, entry in study.entries
            for run in entry.runs
        ),
    )


def table_markdown(study: StudyResult) -> str:
    """Return ``table.md``: the table and what is needed to believe it."""
    rows = [row.texts() for row in table_rows(study)]
    lines = [f"# {safe(study.title)}", "", *markdown_lines(study.command, about(study)), ""]
    return "\n".join([*lines, *markdown_table(headings(study), rows), "", *_remarks(study)]) + "\n"


def about(study: StudyResult) -> list[str]:
    """Return what was compared, how and where, in lines."""
    images = ", ".join(f"{attack_name(attack)} {count:,}" for attack, count in study.attacks.items())
    data, threat = study.data, study.threat
    return [
        f"`{study.command}`: {study.done} of {study.total} cells finished.",
        "",
        f"{data.name}, {data.training_images:,} training images, {threat.norm} eps {threat.eps:.4g}; "
        f"seeds {', '.join(map(str, study.seeds))}; test images: {images}.",
        when_and_where(run for _, entry in study.entries for run in entry.runs),
        "Percent, mean ± sample standard deviation over seeds; minutes and passes are a run's training, means over "
        "seeds; a pass is one forward or backward of a batch. Best is chosen on validation images.",
    ]


def _remarks(study: StudyResult) -> Iterator[str]:
    for _, entry in study.entries:
        for run in entry.runs:
            if run.error:
                yield f"- {safe(run.folder)} {safe(run.status)}: {safe(run.error)}"
        if entry.tuning and entry.tuning.chosen:
            yield f"- {safe(entry.label)}: {safe(_choice(entry.tuning.chosen, len(entry.tuning.trials)))}"


def _choice(chosen: TuningChoice, trials: int) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in chosen.coefficients.items())
    if chosen.robust is None:
        return f"{values}, as given, for all {trials} trials diverged"
    return f"{values}, the best of {trials} trials on validation images ({chosen.robust:.1%} robust)"


def study_section(study: StudyResult) -> Section:
    """Return a study's section of the page: its table and its picture, over all methods and seeds."""
    rows = table_rows(study)
    lines = [line.replace("`", "") for line in about(study) if line]
    table = Table(headings(study), [[TableCell(text) for text in row.texts()] for row in rows])
    figures = [_plot(study, rows)] if any(any(row.accuracy.values()) for row in rows) else []
    return Section(f"Study: {study.title or study.path.parent.name}", [table, *figures], lines)


def _plot(study: StudyResult, rows: Sequence[StudyRow]) -> Plot:
    with drawing():
        svg = inline_svg(scatter(study, stacked=True), f"study {study.path.parent}")
    attack, which = list(study.attacks)[-1], _drawn_weights(study)
    scored = [
        (row.label, found.mean) for row in rows if (found := row.accuracy.get((which, attack))) and not row.teacher
    ]
    best = sorted(scored, key=lambda entry: -entry[1])[:5]
    most = ", ".join(f"{label} {100 * mean:.1f} %" for label, mean in best)
    return Plot(
        title="Robust accuracy against training cost, over all seeds",
        svg=svg,
        alt=f"{attack_name(attack)} accuracy of {len(scored)} methods against training cost. Most robust: {most}.",
        caption="Bars are sample standard deviations over seeds; dashed lines are teachers.",
        commands=[study.command] if study.command else [],
        wide=True,
        least=42,
    )


def _drawn_weights(study: StudyResult) -> str:
    return "best" if "best" in study.which else study.which[0]


def scatter(study: StudyResult, *, stacked: bool = False) -> Figure:
    """Draw robust accuracy against cost, a panel a cost; teachers are lines, for their cost is not the methods'.

    Args:
        study: Study; a cost that no method has gets no panel.
        stacked: Whether panels stand below each other, not side by side.
    """
    rows, attack, which = table_rows(study), main_attack(list(study.attacks)), _drawn_weights(study)
    points = [(row, row.drawn_costs(), row.accuracy[which, attack]) for row in rows]
    costs = [
        name
        for name in ("network passes in training", "minutes of training")
        if any(not row.teacher and cost[name] for row, cost, _ in points)
    ]
    across, down = (1, max(1, len(costs))) if stacked else (max(1, len(costs)), 1)
    figure = Figure(figsize=(7.2 * across, 6.2 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(down, across, squeeze=False, sharey=True)
    labels: list[tuple[Axes, list[Label]]] = []
    for axes, name in zip(panels.flat, costs or ["no run is finished"], strict=True):
        labels.append((axes, _draw(axes, [(row, cost.get(name), score) for row, cost, score in points])))
        axes.set(xlabel=name)
    for row in panels:
        row[0].set_ylabel(f"accuracy under {attack_name(attack)}, {which} weights (%)")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are measured where the axes are now
    lines = [100 * score.mean for row, _, score in points if row.teacher and score]
    for axes, found in labels:
        place_labels(axes, found, lines)
    return figure


def _draw(axes: Axes, points: Sequence[tuple[StudyRow, float | None, MeanAndRange | None]]) -> list[Label]:
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
            _teacher_line(axes, row.label, score, scores)
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
            marker=MARKERS[position % 7],
            markersize=7,
            capsize=3,
            linewidth=1.2,
            linestyle="none",
        )
        labels.append(Label(row.label, cost, 100 * score.mean, spread or 0.0, ink))
    _set_limits(axes, [label.x for label in labels], scores)
    return labels


def _set_limits(axes: Axes, costs: Sequence[float], scores: Sequence[float]) -> None:
    """Leave room for labels, also around a single point."""
    if costs:
        margin = max(1.5, (max(costs) / min(costs)) ** 0.2)
        axes.set_xlim(min(costs) / margin, max(costs) * margin)
    if scores:
        margin = max(5.0, 0.15 * (max(scores) - min(scores)))
        axes.set_ylim(min(scores) - margin, max(scores) + margin)


def _teacher_line(axes: Axes, label: str, score: MeanAndRange | None, scores: Sequence[float]) -> None:
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
