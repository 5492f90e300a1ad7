"""The figure that carries each verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdiga.report.charts import INK, SOFT, axes_of, bars, colour, legend, marker, panels_of
from kdiga.report.claims_tables import RADII
from kdiga.results.studies import ClaimRow, ClaimsResult

WIDTH, ROW = 7.2, 0.42  # inches: of a figure, and of a pair in it


def draw_kd(claims: ClaimsResult) -> Figure | None:
    """Draw robust accuracy of teacher, KD student and plainly trained student, a line a pair."""
    rows = [row for row in claims.claims["a"].rows if row.teacher_robust is not None]
    if not rows:
        return None
    figure, axes = axes_of(WIDTH, 1.3 + ROW * len(rows))
    series = (
        ("teacher_robust", "teacher", INK, "|"),
        ("robust", "KD student", colour(1), "o"),
        ("plain_robust", "student without a teacher", colour(0), "s"),
    )
    for name, label, ink, mark in series:
        places = [(100 * getattr(row, name), place) for place, row in enumerate(rows) if getattr(row, name) is not None]
        if not places:
            continue
        axes.plot(
            *zip(*places, strict=True),
            mark,
            color=ink,
            label=label,
            markersize=12 if mark == "|" else 6,
            markeredgewidth=2.5 if mark == "|" else 1,
        )
    _pair_axis(axes, [f"{row.teacher} → {row.student}" for row in rows])
    axes.set_xlim(left=-2)
    axes.set_xlabel("accuracy under AutoAttack (%)")
    legend(figure, axes)
    return figure


def draw_transfer(claims: ClaimsResult) -> Figure | None:
    """Draw how far each student is from the share of its teacher's robust accuracy that counts as preserved."""
    effects = [(row, row.against_share) for row in claims.claims["b"].rows if row.against_share]
    rows = [row for row, _ in effects]
    if not rows:
        return None
    figure, (axes,), methods = _by_pair(claims, rows, 1)
    _intervals(axes, effects, methods, _pairs(rows))
    axes.axvline(0, color=INK, linewidth=1)
    share = f"{100 * claims.rules['kept']:g} %"
    axes.set_xlabel(f"robust accuracy less {share} of the teacher's (points); right of 0: preserved")
    legend(figure, axes)
    return figure


def draw_pretrained(claims: ClaimsResult) -> Figure | None:
    """Draw what a pre-trained student gained in robust and lost in clean accuracy."""
    rows = [row for row in claims.claims["c"].rows if row.gained and row.kept]
    if not rows:
        return None
    methods, students = _order(claims), list(dict.fromkeys(row.student for row in rows))
    figure, axes = axes_of(WIDTH, 4.2)
    for row in rows:
        x, y = ([100 * part for part in getattr(row, key)] for key in ("kept", "gained"))
        place = methods.index(row.method)
        name = row.method + (f", {row.student}" if len(students) > 1 else "")
        axes.errorbar(
            x[0],
            y[0],
            xerr=bars(x[:1], [x[1:]]),
            yerr=bars(y[:1], [y[1:]]),
            fmt=marker(place),
            color=colour(place),
            label=name,
            elinewidth=1.2,
            capsize=0,
            markerfacecolor="white" if students.index(row.student) else colour(place),
        )
    axes.plot(0, 0, "*", color=INK, markersize=12, label="start")
    axes.axvline(-claims.rules["lost"], color=SOFT, linewidth=1, linestyle=":")
    axes.axhline(claims.rules["gained"], color=SOFT, linewidth=1, linestyle=":")
    axes.set_xlabel("change of clean accuracy (points)")
    axes.set_ylabel("change under AutoAttack (points)")
    legend(figure, axes)
    return figure


def draw_certified(claims: ClaimsResult) -> Figure | None:
    """Draw on how many images the student's radius is at least the teacher's, a panel a kind of radius."""
    effects = [
        (row, [row.share, *row.interval]) for row in claims.claims["d"].rows if row.interval and row.share is not None
    ]
    rows = [row for row, _ in effects]
    if not rows:
        return None
    figure, panels, methods = _by_pair(claims, rows, 2)
    for axes, (kind, title) in zip(panels, RADII.items(), strict=True):
        _intervals(axes, [one for one in effects if one[0].kind == kind], methods, _pairs(rows))
        axes.axvline(100 * claims.rules["covered"], color=INK, linewidth=1)
        axes.set_xlim(-3, 103)
        axes.set_title(title)
    figure.supxlabel("images on which the student has at least the teacher's radius (%)", fontsize=10.5)
    legend(figure, panels[0])
    return figure


def draw_bounds(claims: ClaimsResult) -> Figure | None:
    """Draw robust accuracy against each bound, a point a student: colours are methods, markers teachers."""
    rows = [row for row in claims.claims["e"].rows if row.robust is not None]
    if not rows:
        return None
    methods, teachers = _order(claims), list(dict.fromkeys(row.teacher for row in rows))
    shown = [method for method in methods if any(row.method == method for row in rows)]
    figure, panels = panels_of(2, WIDTH, 4.1)
    first = panels[0]
    for axes, name in zip(panels, ("student", "transfer"), strict=True):
        for row in rows:
            axes.plot(
                getattr(row, f"{name}_mean"),
                100 * (row.robust or 0.0),
                marker(teachers.index(row.teacher)),
                color=colour(methods.index(row.method)),
                markersize=5.5,
            )
        axes.set_xlabel(f"{name} bound (nats, mean over images)")
    first.set_ylabel("accuracy under AutoAttack (%)")
    for method in shown:
        first.plot([], [], "s", color=colour(methods.index(method)), label=method)
    for place, teacher in enumerate(teachers):
        first.plot([], [], marker(place), color=SOFT, markerfacecolor="white", label=f"from {teacher}")
    legend(figure, first)
    return figure


def draw_epochs(claims: ClaimsResult) -> Figure | None:
    """Draw validation accuracy under PGD by epoch, a panel a pair, a line a run."""
    methods = [label for label in _order(claims) if claims.methods[label] == "kd" or label in claims.judged]
    pairs = [f"{pair.teacher}-to-{pair.student}" for pair in claims.pairs]
    shown = {
        pair: [run for run in claims.runs if run.history and run.folder.split("/")[1:2] == [pair]] for pair in pairs
    }
    shown = {pair: runs for pair, runs in shown.items() if any(run.label in methods for run in runs)}
    if not shown:
        return None
    figure, panels = panels_of(len(shown), WIDTH, 3.0)
    for axes, (pair, runs) in zip(panels, shown.items(), strict=True):
        for run in runs:
            if run.label in methods:
                place = _order(claims).index(run.label)
                label = None if run.label in axes.get_legend_handles_labels()[1] else run.label
                epochs, robust = [one[0] for one in run.history], [100 * one[2] for one in run.history]
                axes.plot(epochs, robust, color=colour(place), label=label, linewidth=1.4)
        axes.set_title(pair.replace("-to-", " → "))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
    figure.supylabel("validation accuracy under PGD (%)", fontsize=10)
    legend(figure, *panels)
    return figure


PICTURES: Mapping[str, Callable[[ClaimsResult], Figure | None]] = {
    "a": draw_kd,
    "b": draw_transfer,
    "c": draw_pretrained,
    "d": draw_certified,
    "e": draw_bounds,
    "epochs": draw_epochs,
}


def _order(claims: ClaimsResult) -> list[str]:
    """Return the methods in the order that gives them their colours, the same in every figure."""
    return [*claims.judged, *(label for label in claims.methods if label not in claims.judged)]


def _pairs(rows: Sequence[ClaimRow]) -> list[str]:
    return list(dict.fromkeys(f"{row.teacher} → {row.student}" for row in rows))


def _by_pair(claims: ClaimsResult, rows: Sequence[ClaimRow], count: int) -> tuple[Figure, list[Axes], dict[str, int]]:
    """Return a figure whose panels share the pairs as their vertical axis, and each method's colour."""
    methods = {label: place for place, label in enumerate(_order(claims))}
    shown = len({row.method for row in rows})
    figure, panels = panels_of(count, WIDTH, 1.3 + len(_pairs(rows)) * (0.17 * shown + 0.15))
    for axes in panels:
        _pair_axis(axes, _pairs(rows))
    return figure, panels, methods


def _pair_axis(axes: Axes, pairs: Sequence[str]) -> None:
    axes.set_yticks(range(len(pairs)), pairs)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _intervals(
    axes: Axes, effects: Sequence[tuple[ClaimRow, Sequence[float]]], methods: Mapping[str, int], pairs: Sequence[str]
) -> None:
    """Draw mean and interval of each row at its pair's height, methods below each other."""
    shown = [label for label in methods if any(row.method == label for row, _ in effects)]
    for row, effect in effects:
        mean, low, high = (100 * part for part in effect)
        place, step = methods[row.method], shown.index(row.method) - (len(shown) - 1) / 2
        height = pairs.index(f"{row.teacher} → {row.student}") + step / (len(shown) + 1)
        label = None if row.method in axes.get_legend_handles_labels()[1] else row.method
        axes.plot([low, high], [height, height], color=colour(place), linewidth=1.4)
        axes.plot(mean, height, marker(place), color=colour(place), label=label)
