"""Certified curves of teacher and students, a figure a kind of certificate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from kdiga.report import charts
from kdiga.report.blocks import NO_VALUE, Key, Plot, Section, Table, TableCell, key_of, mark, teacher_name
from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.report.tables import percent_or_dash, span
from kdiga.results.attack_names import eps_text
from kdiga.results.certificates import RadiiComparison, RadiiRecord
from kdiga.results.shared import AccuracyCurve
from kdiga.statistics import percent

TITLES = {
    "clever": "CLEVER radius",
    "smoothing": "Radius by randomized smoothing",
    "interval": "Radius by interval bounds",
}
STATEMENTS = {
    "clever": "CLEVER is an estimate, not a proof. It can be too large, especially where gradients are masked.",
    "smoothing": "Proved for the smoothed model, with the stated confidence for each image.",
    "interval": "Proved: no perturbation up to this radius changes the class.",
}
LABELS = {"clever": "CLEVER", "smoothing": "smoothing", "interval": "interval bounds"}
ModelRadii = tuple[ReportedModel, RadiiRecord]


def certified_section(group: ModelGroup) -> Section | None:
    """Return the certified curves; None if nothing was certified."""
    found: dict[tuple[str, str], list[ModelRadii]] = defaultdict(list)
    for member in group.members:
        for certificate in member.certificates:
            for kind, radii in certificate.radii.items():
                found[kind, certificate.norm_of(kind)].append((member, radii))
    if not found:
        return None
    plots = [_plot(group, kind, norm, entries) for (kind, norm), entries in sorted(found.items())]
    compared = [table for table in (_compared(group), _guaranteed(group)) if table]
    lead = ["Share of images that are correct and whose class cannot change within the radius. Higher is better."]
    return Section("Certified robustness", [*plots, *compared], lead)


def _plot(group: ModelGroup, kind: str, norm: str, entries: Sequence[ModelRadii]) -> Plot:
    shown = [entry for entry in entries if entry[0].place is not None] or list(entries)
    lines = [(member, radii.curve.curve) for member, radii in shown]
    keys = [key_of(member) for member, _ in lines]
    borrowed = _teacher_curve(group, kind, [member for member, _ in entries])
    figure, axes = charts.axes_of()
    if norm == group.conditions.norm:
        charts.dotted_line(axes, group.conditions.eps)
    if borrowed:
        charts.draw_line(axes, -1, borrowed[1].at, borrowed[1].accuracy, markers=6)
        keys.insert(0, Key(teacher_name(borrowed[0]), mark(-1)))
    for member, curve in lines:
        charts.draw_line(axes, member.place, curve.at, curve.accuracy, markers=6)
    axes.set(xlabel=f"radius ({norm}, pixels in [0, 1])", ylabel="correct with at least this radius", xlim=(0, None))
    charts.percent_axis(axes)
    svg = charts.inline_svg(figure, f"certified {kind} {norm} {group.conditions.key}")
    eps = group.conditions.eps
    alt = "; ".join(f"{member.name} {_at(curve, eps)}" for member, curve in lines)
    return Plot(
        title=f"{TITLES[kind]}, {norm}",
        svg=svg,
        alt=f"{LABELS[kind]}: share of images that are correct with at least a radius. {alt}.",
        keys=keys,
        caption=STATEMENTS[kind] + (f" Dotted line: eps {eps_text(eps)}." if norm == group.conditions.norm else ""),
        numbers=_numbers(entries),
    )


def _teacher_curve(group: ModelGroup, kind: str, drawn: Sequence[ReportedModel]) -> tuple[str, AccuracyCurve] | None:
    """Return the teacher's curve from a student's certificate, if the teacher has no certificate."""
    for member in drawn:
        for certificate in member.certificates:
            found = certificate.comparisons.get(kind)
            if found and found.teacher_curve and group.named(member.taught_by) not in drawn:
                return member.taught_by or "teacher", found.teacher_curve.curve
    return None


def _at(curve: AccuracyCurve, eps: float) -> str:
    end = max((row for row, radius in enumerate(curve.at) if radius <= eps * (1 + 1e-9)), default=0)
    start = f"{percent(curve.accuracy[0])} at radius {curve.at[0]:.3g}"
    return f"{start} and {percent(curve.accuracy[end])} at {curve.at[end]:.3g}"


def _numbers(entries: Sequence[ModelRadii]) -> Table:
    grid = max((radii.curve.radius for _, radii in entries), key=len)
    at = list(dict.fromkeys([*grid[:: max(1, len(grid) // 5)], grid[-1]]))
    rows: list[list[TableCell]] = []
    for member, radii in entries:
        known = dict(zip(radii.curve.radius, radii.curve.accuracy, strict=True))
        settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in radii.settings.items())
        about = ", ".join(part for part in (f"{len(radii.radius)} images", radii.missing, settings) if part)
        median = NO_VALUE if radii.median is None else TableCell(f"{radii.median:.4g}")
        rows.append(
            [TableCell(member.name, about), median, *(TableCell(percent_or_dash(known.get(radius))) for radius in at)]
        )
    return Table(["model", "median radius", *(f"at {radius:.3g}" for radius in at)], rows)


def _comparisons(group: ModelGroup) -> Iterator[tuple[ReportedModel, dict[str, RadiiComparison]]]:
    for member in group.members:
        for certificate in member.certificates:
            if certificate.comparisons:
                yield member, certificate.comparisons


def _compared(group: ModelGroup) -> Table | None:
    """Return on how many images students' radii reach their teacher's."""
    kinds = [kind for kind in LABELS if any(kind in found for _, found in _comparisons(group))]
    if not kinds:
        return None
    rows = [
        [
            TableCell(member.name, f"compared with {member.taught_by or 'its teacher'}", mark=mark(member.place)),
            *(
                TableCell(percent_or_dash(one.share_at_least_teacher), span(one.share_interval_95))
                if (one := found.get(kind))
                else NO_VALUE
                for kind in kinds
            ),
        ]
        for member, found in _comparisons(group)
    ]
    head = ["model", *(LABELS[kind] for kind in kinds)]
    return Table(head, rows, "Share of images on which the radius is at least the teacher's")


def _guaranteed(group: ModelGroup) -> Table | None:
    """Return the radii that alignment of gradients guarantees, if alignment was measured."""
    rows = [
        [
            TableCell(member.name, f"by {LABELS[kind]}", mark=mark(member.place)),
            TableCell(f"{rho:.2f}"),
            NO_VALUE if found.guaranteed is None else TableCell(f"{found.guaranteed:.3g}"),
            TableCell(percent_or_dash(found.alignment.median_guaranteed_over_measured)),
        ]
        for member, comparisons in _comparisons(group)
        for kind, found in comparisons.items()
        if (rho := found.alignment.median_rho_over_lipschitz) is not None
    ]
    if not rows:
        return None
    head = ["model", "rho / L", "guaranteed radius", "of its own radius"]
    title = "Radius that gradient alignment guarantees (medians). rho / L is 0 if the gradients agree in the whole ball"
    return Table(head, rows, title)
