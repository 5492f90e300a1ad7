"""How training went: validation accuracy and loss terms by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, NullFormatter

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import LINES, Key, Plot, Section, Table, TableCell, commands_of, dash, key_of
from kdiga.report.theme import SOFT, axes_of, colour, drawing, inline_svg, marker, marker_size, percent_axis, short_key
from kdiga.report.wording import percent
from kdiga.results.runs import RunResult

WANTED = (("robust", "robust accuracy on validation images"), ("clean", "clean accuracy on validation images"))


def training_section(chapter: Chapter) -> Section | None:
    """Return validation curves of all coloured models together, and each one's loss terms; None without journals."""
    shown = [
        (member, member.run)
        for member in chapter.members
        if member.place is not None and member.run and member.run.epochs and member.identity.which != "last"
    ]
    if not shown:
        return None
    plots = [plot for name, title in WANTED if (plot := _validation(chapter, name, title, shown))]
    losses = [plot for member, run in shown if (plot := _terms(chapter, member, run))]
    lead = ["Checkpoints are chosen on validation images; the test images take no part."]
    without = sum(member.place is None and member.run is not None for member in chapter.members)
    if without:
        lead.append(f"{without} more runs are not drawn.")
    return Section("Training", [*plots, *losses], lead) if plots or losses else None


def _validation(
    chapter: Chapter, name: str, title: str, shown: Sequence[tuple[ReportedModel, RunResult]]
) -> Plot | None:
    lines: list[tuple[ReportedModel, RunResult, list[tuple[int, float]]]] = []
    for member, run in shown:
        points = [(one.epoch + 1, value) for one in run.epochs if (value := getattr(one, name)) is not None]
        if points:
            lines.append((member, run, points))
    if not lines:
        return None
    with drawing():
        figure, axes = axes_of()
        for member, _, points in lines:
            place = -1 if member.place is None else member.place
            axes.plot(
                *zip(*points, strict=True),
                color=colour(place),
                marker=marker(place),
                markersize=marker_size(place),
                markevery=max(1, len(points) // 8),
                linestyle="--" if place < 0 else "-",
            )
        axes.set(xlabel="epoch", ylabel=f"{name} accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        percent_axis(axes)
        svg = inline_svg(figure, short_key(f"validation {name} {chapter.conditions.key}"))
    alt = "; ".join(
        f"{member.name} from {percent(points[0][1])} to {percent(points[-1][1])} in {points[-1][0]} epochs"
        for member, _, points in lines
    )
    rows = [[TableCell(member.name), TableCell(_best(run)), *_ends(points)] for member, run, points in lines]
    return Plot(
        title=title.capitalize(),
        svg=Markup(svg),
        alt=f"{title.capitalize()} by epoch: {alt}.",
        keys=[key_of(member) for member, _, _ in lines],
        commands=commands_of([run.origin for _, run, _ in lines]),
        numbers=Table(["model", "best epoch", "first", "highest", "last"], rows),
    )


def _best(run: RunResult) -> str:
    return "–" if run.best_epoch is None else str(run.best_epoch + 1)


def _ends(points: Sequence[tuple[int, float]]) -> list[TableCell]:
    values = [value for _, value in points]
    return [TableCell(percent(value)) for value in (values[0], max(values), values[-1])]


def _terms(chapter: Chapter, member: ReportedModel, run: RunResult) -> Plot | None:
    names = list(dict.fromkeys(name for one in run.epochs for name in one.known_terms))
    lines = {
        name: [(one.epoch + 1, one.known_terms[name]) for one in run.epochs if name in one.known_terms]
        for name in names
    }
    if not names:
        return None
    values = [value for points in lines.values() for _, value in points]
    with drawing():
        figure, axes = axes_of(height=2.4)
        for place, points in enumerate(lines.values()):
            axes.plot(*zip(*points, strict=True), color=colour(place), linestyle=LINES[place % 4])
        if run.best_epoch is not None:
            axes.axvline(run.best_epoch + 1, color=SOFT, linewidth=1.2, linestyle=":")
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(min(0.0, *values), None)
        axes.set(xlabel="epoch", ylabel="loss term, unweighted")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        svg = inline_svg(figure, short_key(f"terms {member.name} {chapter.conditions.key}"))
    alt = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in lines.items())
    return Plot(
        title=f"Loss terms of {member.name}",
        svg=Markup(svg),
        alt=f"Loss terms of {member.name} over {len(run.epochs)} epochs: {alt}.",
        keys=[Key(name, dash(place)) for place, name in enumerate(names)],
        caption="Dotted: the epoch whose weights were kept as best." if run.best_epoch is not None else "",
        commands=commands_of([run.origin]),
    )
