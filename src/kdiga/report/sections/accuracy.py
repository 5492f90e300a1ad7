"""Accuracy against eps: from a sweep, or from evaluations at several eps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Plot, Section, Table, TableCell, commands_of, key_of
from kdiga.report.strength import strongest
from kdiga.report.theme import SOFT, axes_of, colour, drawing, inline_svg, marker, marker_size, percent_axis, short_key
from kdiga.report.wording import percent, span
from kdiga.results.attack_names import attack_name
from kdiga.results.shared import Accuracy, AccuracyCurve, ResultOrigin


def sweep_section(chapter: Chapter, *, first: bool) -> Section | None:
    """Return accuracy against eps, a figure an attack; None where no model was judged at several eps.

    Args:
        chapter: of the page.
        first: it is the first of its data and norm, so that evaluations at other eps are shown here and once.
    """
    by_attack: dict[str, list[tuple[ReportedModel, AccuracyCurve, list[ResultOrigin]]]] = defaultdict(list)
    for member in chapter.members:
        if member.place is not None and (found := _curve(member, first=first)):
            by_attack[found[0].attack].append((member, *found))
    if not by_attack:
        return None
    return Section("Accuracy against eps", [_plot(chapter, attack, found) for attack, found in by_attack.items()])


def _curve(member: ReportedModel, *, first: bool) -> tuple[AccuracyCurve, list[ResultOrigin]] | None:
    for evaluation in member.evaluations:
        if evaluation.sweep is not None:
            return evaluation.sweep.curve, [evaluation.origin]
    return _from_several(member) if first else None


def _from_several(member: ReportedModel) -> tuple[AccuracyCurve, list[ResultOrigin]] | None:
    """Put evaluations at several eps into one curve: the strongest attack that most of them have, clean at 0."""
    found = [*member.evaluations, *member.elsewhere]
    places: dict[str, dict[float, Accuracy]] = defaultdict(dict)
    for evaluation in found:
        for attack, accuracy in evaluation.measured.items():
            known = places[attack].get(evaluation.conditions.eps)
            if known is None or known.images < accuracy.images:
                places[attack][evaluation.conditions.eps] = accuracy
    most = max((len(points) for attack, points in places.items() if attack != "clean"), default=0)
    if most < 2:
        return None
    attack = strongest(name for name, points in places.items() if len(points) == most) or ""
    points = dict(places[attack])
    if places["clean"]:
        points[0.0] = max(places["clean"].values(), key=lambda accuracy: accuracy.images)
    at = tuple(sorted(points))
    curve = AccuracyCurve(at, tuple(points[eps].value for eps in at), tuple(points[eps].interval for eps in at), attack)
    return curve, [points[eps].origin for eps in at]


def _plot(
    chapter: Chapter, attack: str, found: Sequence[tuple[ReportedModel, AccuracyCurve, list[ResultOrigin]]]
) -> Plot:
    with drawing():
        figure, axes = axes_of()
        mark_eps(axes, chapter.conditions.eps)
        for member, curve, _ in found:
            _line(axes, -1 if member.place is None else member.place, curve)
        axes.set(xlabel=f"eps ({chapter.conditions.norm}, pixels in [0, 1])", xlim=(0, None))
        axes.set_ylabel(f"accuracy under {attack_name(attack)}")
        percent_axis(axes)
        svg = inline_svg(figure, short_key(f"sweep {attack} {chapter.conditions.key}"))
    alt = "; ".join(
        f"{member.name} falls from {percent(curve.accuracy[0])} at eps {curve.at[0]:.4g} to "
        f"{percent(curve.accuracy[-1])} at eps {curve.at[-1]:.4g}"
        for member, curve, _ in found
    )
    intervals = any(curve.intervals for _, curve, _ in found)
    return Plot(
        title=f"Accuracy under {attack_name(attack)} as eps grows",
        svg=Markup(svg),
        alt=f"Accuracy under {attack_name(attack)} against eps. {alt}.",
        keys=[key_of(member) for member, _, _ in found],
        caption=f"Dotted: eps {chapter.conditions.eps:.4g} of the threat model."
        + (" Bars are 95 % intervals." if intervals else "")
        + " A curve that does not near 0 for large eps is a sign of masked gradients.",
        commands=commands_of([origin for _, _, origins in found for origin in origins]),
        numbers=_numbers(found),
    )


def mark_eps(axes: Axes, eps: float) -> None:
    """Draw a dotted line where the threat model's eps is."""
    axes.axvline(eps, color=SOFT, linewidth=1.2, linestyle=":")


def _line(axes: Axes, place: int, curve: AccuracyCurve) -> None:
    errors = None
    if curve.intervals:
        low = [value - ends[0] for value, ends in zip(curve.accuracy, curve.intervals, strict=True)]
        high = [ends[1] - value for value, ends in zip(curve.accuracy, curve.intervals, strict=True)]
        errors = [[max(0.0, part) for part in low], [max(0.0, part) for part in high]]
    axes.errorbar(
        curve.at,
        curve.accuracy,
        yerr=errors,
        elinewidth=1,
        capsize=2.5,
        color=colour(place),
        marker=marker(place),
        markersize=marker_size(place),
        linestyle="--" if place < 0 else "-",
    )


def _numbers(found: Sequence[tuple[ReportedModel, AccuracyCurve, list[ResultOrigin]]]) -> Table:
    at = sorted({eps for _, curve, _ in found for eps in curve.at})
    rows: list[list[TableCell]] = []
    for member, curve, _ in found:
        known = {
            eps: TableCell(percent(value), span(curve.intervals[row]) if curve.intervals else "")
            for row, (eps, value) in enumerate(zip(curve.at, curve.accuracy, strict=True))
        }
        rows.append([TableCell(member.name), *(known.get(eps, TableCell("–")) for eps in at)])
    return Table(["model", *(f"eps {eps:.4g}" for eps in at)], rows)
