"""How training went: validation accuracy and loss terms by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, NullFormatter

from kdiga.report import charts
from kdiga.report.blocks import LINES, Key, Plot, Section, Table, TableCell, dash, key_of
from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.results.runs import RunResult
from kdiga.statistics import percent

ModelRun = tuple[ReportedModel, RunResult]


def training_section(group: ModelGroup) -> Section | None:
    """Return validation curves of all coloured models together, and each one's loss terms; None without journals."""
    shown = [
        (member, member.run)
        for member in group.members
        if member.place is not None and member.run and member.run.epochs and member.identity.which != "last"
    ]
    validation = [plot for name in ("robust", "clean") if (plot := _validation(group, name, shown))]
    losses = [plot for member, run in shown if (plot := _terms(group, member, run))]
    lead = ["Checkpoints are chosen on validation images; test images are not used."]
    others = sum(member.place is None and member.run is not None for member in group.members)
    if others:
        lead.append(f"{others} more runs are not drawn.")
    return Section("Training", [*validation, *losses], lead) if validation or losses else None


def _validation(group: ModelGroup, name: str, shown: Sequence[ModelRun]) -> Plot | None:
    lines: list[tuple[ReportedModel, RunResult, list[int], list[float]]] = []
    for member, run in shown:
        points = [(one.epoch + 1, value) for one in run.epochs if (value := getattr(one, name)) is not None]
        if points:
            lines.append((member, run, [epoch for epoch, _ in points], [value for _, value in points]))
    if not lines:
        return None
    title = f"{'Accuracy under PGD' if name == 'robust' else 'Clean accuracy'} on validation images"
    figure, axes = charts.axes_of()
    for member, _, epochs, values in lines:
        charts.draw_line(axes, member.place, epochs, values, markers=8)
    axes.set(xlabel="epoch", ylabel="accuracy under PGD" if name == "robust" else "clean accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    charts.percent_axis(axes)
    svg = charts.inline_svg(figure, f"validation {name} {group.conditions.key}")
    alt = "; ".join(
        f"{member.name} from {percent(values[0])} to {percent(values[-1])} in {epochs[-1]} epochs"
        for member, _, epochs, values in lines
    )
    rows = [
        [
            TableCell(member.name),
            TableCell("–" if run.best_epoch is None else str(run.best_epoch + 1)),
            *(TableCell(percent(value)) for value in (values[0], max(values), values[-1])),
        ]
        for member, run, _, values in lines
    ]
    return Plot(
        title=title,
        svg=svg,
        alt=f"{title} by epoch: {alt}.",
        keys=[key_of(member) for member, *_ in lines],
        numbers=Table(["model", "best epoch", "first", "highest", "last"], rows),
    )


def _terms(group: ModelGroup, member: ReportedModel, run: RunResult) -> Plot | None:
    names = list(dict.fromkeys(name for one in run.epochs for name in one.known_terms))
    lines = {
        name: [(one.epoch + 1, one.known_terms[name]) for one in run.epochs if name in one.known_terms]
        for name in names
    }
    if not names:
        return None
    values = [value for points in lines.values() for _, value in points]
    figure, axes = charts.axes_of(height=2.4)
    colour = charts.colour(member.place)
    for place, points in enumerate(lines.values()):
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=LINES[place % 4], alpha=1 if place < 4 else 0.5)
    if run.best_epoch is not None:
        charts.dotted_line(axes, run.best_epoch + 1)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(min(0.0, *values), None)
    axes.set(xlabel="epoch", ylabel="loss term, unweighted")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    svg = charts.inline_svg(figure, f"terms {member.name} {group.conditions.key}")
    alt = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in lines.items())
    return Plot(
        title=f"Loss terms of {member.name}",
        svg=svg,
        alt=f"Loss terms of {member.name} over {len(run.epochs)} epochs: {alt}.",
        keys=[Key(name, dash(place)) for place, name in enumerate(names)],
        caption="Dotted line: the epoch of the best weights." if run.best_epoch is not None else "",
    )
