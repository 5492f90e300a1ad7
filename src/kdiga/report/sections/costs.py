"""Robust accuracy against what training cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Key, Plot, Section, Table, TableCell, commands_of, key_of, mark
from kdiga.report.theme import INK, SOFT, axes_of, colour, drawing, inline_svg, marker, short_key
from kdiga.report.wording import percent, span
from kdiga.results.attack_names import attack_name
from kdiga.results.fields import fields
from kdiga.results.runs import RunResult
from kdiga.results.shared import Accuracy

Cost = Callable[[RunResult], float | None]
COSTS: tuple[tuple[str, Cost], ...] = (
    ("minutes of training", lambda run: run.minutes),
    ("network passes in training", lambda run: run.passes),
)


def costs_section(chapter: Chapter) -> Section | None:
    """Return robust accuracy against minutes and passes; None unless two models have both."""
    attack = chapter.attack
    if attack is None:
        return None
    plots: list[Plot] = []
    for name, cost in COSTS:
        points = [
            (member, spent, found)
            for member in chapter.students
            if (found := member.of(attack)) and member.run and (spent := cost(member.run))
        ]
        if len(points) > 1:
            plots.append(_plot(chapter, name, points))
    if not plots:
        return None
    lead = ["Cost is a student's training alone, on its machine; its teacher's is not counted."]
    machines = {str(fields(member.run.origin.provenance.get("hardware"))) for member in chapter.students if member.run}
    if len(machines) > 1:
        lead.append("The runs were trained on different machines: compare their passes, not their minutes.")
    return Section("Robustness and training cost", plots, lead)


def _plot(chapter: Chapter, name: str, points: Sequence[tuple[ReportedModel, float, Accuracy]]) -> Plot:
    attack = attack_name(chapter.attack or "")
    teacher = chapter.teacher.of(chapter.attack) if chapter.teacher else None
    spent = [cost for _, cost, _ in points]
    with drawing():
        figure, axes = axes_of()
        if teacher:
            axes.axhline(100 * teacher.value, color=INK, linewidth=1.3, linestyle="--")
        for member, cost, found in reversed(points):
            low, high = found.value - found.interval[0], found.interval[1] - found.value
            grey = member.place is None
            axes.errorbar(
                cost,
                100 * found.value,
                yerr=[[100 * low], [100 * high]],
                linestyle="none",
                capsize=2.5,
                color=SOFT if member.place is None else colour(member.place),
                elinewidth=0.6 if grey else 1.2,
                marker="." if member.place is None else marker(member.place),
                alpha=0.55 if grey else 1,
            )
        _scale(axes, spent)
        axes.set(xlabel=name, ylabel=f"right under {attack} (%)")
        svg = inline_svg(figure, short_key(f"cost {name} {chapter.conditions.key}"))
    best, cheapest = max(points, key=lambda point: point[2].value), min(points, key=lambda point: point[1])
    alt = (
        f"{attack} accuracy of {len(points)} students against {name}, from {min(spent):,.4g} to {max(spent):,.4g}. "
        f"Most robust: {best[0].name}, {percent(best[2].value)} at {best[1]:,.4g}. "
        f"Cheapest: {cheapest[0].name}, {percent(cheapest[2].value)} at {cheapest[1]:,.4g}."
    )
    return Plot(
        title=f"Robust accuracy against {name}",
        svg=Markup(svg),
        alt=alt + (f" The teacher has {percent(teacher.value)}." if teacher else ""),
        keys=_keys(points),
        caption=("Dashed: the teacher. " if teacher else "") + "Bars are 95 % intervals over test images.",
        commands=commands_of([member.run.origin for member, _, _ in points if member.run and member.place is not None]),
        numbers=Table(
            ["model", name, attack],
            [
                [
                    TableCell(member.name),
                    TableCell(f"{cost:,.4g}"),
                    TableCell(percent(found.value), span(found.interval)),
                ]
                for member, cost, found in points
            ],
        ),
    )


def _keys(points: Sequence[tuple[ReportedModel, float, Accuracy]]) -> list[Key]:
    keys = [key_of(member) for member, _, _ in points if member.place is not None]
    grey = sum(member.place is None for member, _, _ in points)
    return [*keys, Key(f"{grey} others", mark(None))] if grey else keys


def _scale(axes: Axes, spent: Sequence[float]) -> None:
    if max(spent) > 3 * min(spent):
        axes.set_xscale("log")
        axes.set_xlim(min(spent) / 1.4, max(spent) * 1.4)
        few = max(spent) < 60 * min(spent)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:,.12g}")
    else:
        axes.set_xlim(0, 1.1 * max(spent))
