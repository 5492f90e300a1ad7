"""A study's tables, picture and section of the page, from its ``study.json`` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdiga.errors import InputError
from kdiga.io.atomic_write import write_atomically
from kdiga.io.markdown import safe
from kdiga.report import charts
from kdiga.report.blocks import Plot, Section, Table, TableCell
from kdiga.report.tables import NOTHING, MeanAndRange, csv_text, markdown_lines, markdown_table, when_and_where
from kdiga.results.attack_names import attack_name, eps_text, strongest
from kdiga.results.fields import DamagedError
from kdiga.results.shared import command_without_folders
from kdiga.results.studies import StudyEntry, StudyResult, TuningChoice
from kdiga.statistics import percent

OF_A_RUN = ("seed", "status", "folder", "epochs", "best_epoch", "parameters", "minutes")
COSTS = ("minutes", "student passes", "teacher passes")


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

    def minutes(self) -> float | None:
        """Return the minutes of training."""
        return self.costs["minutes"]

    def passes(self) -> float | None:
        """Return the passes of student and teacher together."""
        student, teacher = (self.costs[f"{role} passes"] for role in ("student", "teacher"))
        return None if student is None or teacher is None else student + teacher


def read_study(folder: Path) -> StudyResult:
    """Return the study in a folder."""
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
    """Write ``cells.csv`` and ``table.md``, and with ``pictures`` ``scatter.png`` and ``scatter.svg``."""
    study = read_study(folder)
    write_atomically(folder / "cells.csv", _runs_csv(study))
    write_atomically(folder / "table.md", table_markdown(study))
    if not pictures:
        return
    figure = scatter(study)
    charts.write_png(folder / "scatter.png", figure, dpi=130)
    write_atomically(folder / "scatter.svg", charts.file_svg(figure))


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
    lines = [f"# {safe(study.title)}", "", *markdown_lines(command_without_folders(study.command), about(study)), ""]
    return "\n".join([*lines, *markdown_table(headings(study), rows), "", *_remarks(study)]) + "\n"


def about(study: StudyResult) -> list[str]:
    """Return what was compared, how and where, in lines."""
    images = ", ".join(f"{attack_name(attack)} {count:,}" for attack, count in study.attacks.items())
    data, threat = study.data, study.threat
    return [
        f"`{command_without_folders(study.command)}`: {study.done} of {study.total} cells finished.",
        "",
        f"{data.name}, {data.training_images:,} training images, {threat.norm} eps {eps_text(threat.eps)}; "
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
    return f"{values}, the best of {trials} trials on validation images ({percent(chosen.robust)} robust)"


def study_section(study: StudyResult) -> Section:
    """Return a study's section of the page: its table and its picture, over all methods and seeds."""
    rows = table_rows(study)
    lines = [line.replace("`", "") for line in about(study) if line]
    table = Table(headings(study), [[TableCell(text) for text in row.texts()] for row in rows])
    figures = [_plot(study, rows)] if any(any(row.accuracy.values()) for row in rows) else []
    return Section(f"Study: {study.title or study.path.parent.name}", [table, *figures], lines)


def _plot(study: StudyResult, rows: Sequence[StudyRow]) -> Plot:
    attack, which = _drawn(study)
    scored = [
        (row.label, found.mean) for row in rows if (found := row.accuracy.get((which, attack))) and not row.teacher
    ]
    best = sorted(scored, key=lambda entry: -entry[1])[:5]
    most = ", ".join(f"{label} {percent(mean)}" for label, mean in best)
    return Plot(
        title="Robust accuracy against training cost, over all seeds",
        svg=charts.inline_svg(scatter(study), f"study {study.path.parent}"),
        alt=f"{attack_name(attack)} accuracy of {len(scored)} methods against training cost. Most robust: {most}.",
        caption="Bars are sample standard deviations over seeds; dashed lines are teachers.",
        wide=True,
        least=42,
    )


def _drawn(study: StudyResult) -> tuple[str, str]:
    """Return the attack and the weights of the picture."""
    return strongest(study.attacks) or "clean", "best" if "best" in study.which else study.which[0]


def scatter(study: StudyResult) -> Figure:
    """Draw robust accuracy against passes, or minutes where passes are unknown; teachers are lines without a cost."""
    rows, (attack, which) = table_rows(study), _drawn(study)
    methods = [row for row in rows if not row.teacher]
    by_passes = any(row.passes() for row in methods)
    points = [
        (place, row, spent, score)
        for place, row in enumerate(methods)
        if (score := row.accuracy[which, attack]) and (spent := row.passes() if by_passes else row.minutes())
    ]
    with charts.drawing():
        figure, axes = charts.axes_of(7.2, 6.2)
        axes.set_xlabel("network passes in training" if by_passes else "minutes of training")
        axes.set_ylabel(f"accuracy under {attack_name(attack)}, {which} weights (%)")
        axes.margins(0.1)
        for row in rows:
            if row.teacher and (score := row.accuracy[which, attack]):
                _teacher_line(axes, row.label, 100 * score.mean)
        for place, row, spent, score in points:
            spread = None if score.deviation is None else 100 * score.deviation
            mark: dict[str, Any] = {
                "color": charts.colour(place),
                "marker": charts.marker(place),
                "markersize": 7,
                "linestyle": "none",
            }
            axes.errorbar(spent, 100 * score.mean, yerr=spread, capsize=3, label=row.label, **mark)
        if points:
            charts.cost_axis(axes, [spent for _, _, spent, _ in points])
        charts.legend(figure, axes)
    return figure


def _teacher_line(axes: Axes, label: str, height: float) -> None:
    axes.axhline(height, color=charts.SOFT, linewidth=1, linestyle="--", zorder=1)
    place: Any = ("axes fraction", "data")
    offset: dict[str, Any] = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 8.5, "color": charts.SOFT}
    axes.annotate(f"teacher {label}", (0, height), xycoords=place, **offset)
