"""Certified curves of teacher and students, a figure a kind of certificate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Key, Plot, Section, Table, TableCell, commands_of, key_of, mark
from kdiga.report.sections.sweeps import mark_eps
from kdiga.report.theme import axes_of, colour, drawing, inline_svg, marker, marker_size, percent_axis, short_key
from kdiga.report.wording import percent, span
from kdiga.results.certificates import RadiiRecord
from kdiga.results.shared import AccuracyCurve, ResultOrigin

TITLES = {
    "clever": "CLEVER radius",
    "smoothing": "Radius by randomized smoothing",
    "interval": "Radius by interval bounds",
}
STATEMENTS = {
    "clever": "An estimate, not a proof: CLEVER can be too large, most of all where gradients are masked.",
    "smoothing": "Holds for the smoothed model, with the stated confidence for each image.",
    "interval": "A proof: no perturbation up to this radius changes the class.",
}
LABELS = {"clever": "CLEVER", "smoothing": "smoothing", "interval": "interval bounds"}


def certified_section(chapter: Chapter) -> Section | None:
    """Return the certified curves; None where nothing was certified."""
    found: dict[tuple[str, str], list[tuple[ReportedModel, RadiiRecord, ResultOrigin]]] = defaultdict(list)
    for member in chapter.members:
        for certificate in member.certificates:
            for kind, radii in certificate.radii.items():
                found[kind, certificate.norm_of(kind)].append((member, radii, certificate.origin))
    if not found:
        return None
    plots = [_plot(chapter, kind, norm, entries) for (kind, norm), entries in sorted(found.items())]
    held = [table for table in (_held(chapter), _guaranteed(chapter)) if table]
    lead = ["The share of all images that are right and keep their class up to a radius: the higher, the better."]
    return Section("Certified robustness", [*plots, *held], lead)


def _plot(
    chapter: Chapter, kind: str, norm: str, entries: Sequence[tuple[ReportedModel, RadiiRecord, ResultOrigin]]
) -> Plot:
    shown = [entry for entry in entries if entry[0].place is not None] or list(entries)
    lines = [(member, radii.curve.curve) for member, radii, _ in shown]
    keys = [key_of(member) for member, _ in lines]
    borrowed = _teacher_curve(chapter, kind, [member for member, _, _ in entries])
    with drawing():
        figure, axes = axes_of()
        if norm == chapter.conditions.norm:
            mark_eps(axes, chapter.conditions.eps)
        if borrowed:
            _line(axes, -1, borrowed[1])
            keys.insert(0, Key(f"{borrowed[0]} (teacher)", mark(-1)))
        for member, curve in lines:
            place = -1 if member.place is None else member.place
            _line(axes, place, curve)
        axes.set(xlabel=f"radius ({norm}, pixels in [0, 1])", ylabel="right, with at least this radius", xlim=(0, None))
        percent_axis(axes)
        svg = inline_svg(figure, short_key(f"certified {kind} {norm} {chapter.conditions.key}"))
    alt = "; ".join(f"{member.name} {_at(curve, chapter.conditions.eps)}" for member, curve in lines)
    return Plot(
        title=f"{TITLES[kind]}, {norm}",
        svg=Markup(svg),
        alt=f"{LABELS[kind]}: share of images right with at least a radius. {alt}.",
        keys=keys,
        caption=STATEMENTS[kind]
        + (f" Dotted: eps {chapter.conditions.eps:.4g}." if norm == chapter.conditions.norm else ""),
        commands=commands_of([origin for _, _, origin in shown]),
        numbers=_numbers(entries, norm, chapter),
    )


def _line(axes: Axes, place: int, curve: AccuracyCurve) -> None:
    axes.plot(
        curve.at,
        curve.accuracy,
        color=colour(place),
        marker=marker(place),
        linestyle="--" if place < 0 else "-",
        markevery=max(1, len(curve.at) // 6),
        markersize=marker_size(place),
    )


def _teacher_curve(chapter: Chapter, kind: str, drawn: Sequence[ReportedModel]) -> tuple[str, AccuracyCurve] | None:
    """Return the teacher's curve from a student's certificate, where the teacher has none of its own."""
    for member in drawn:
        for certificate in member.certificates:
            teacher = chapter.named(member.taught_by)
            against = certificate.comparisons.get(kind)
            if against and against.teacher_curve and teacher not in drawn:
                return member.taught_by or "teacher", against.teacher_curve.curve
    return None


def _at(curve: AccuracyCurve, eps: float) -> str:
    end = max((row for row, radius in enumerate(curve.at) if radius <= eps * (1 + 1e-9)), default=0)
    start = f"{percent(curve.accuracy[0])} at radius {curve.at[0]:.3g}"
    return f"{start} and {percent(curve.accuracy[end])} at {curve.at[end]:.3g}"


def _numbers(entries: Sequence[tuple[ReportedModel, RadiiRecord, ResultOrigin]], norm: str, chapter: Chapter) -> Table:
    grid = max((radii.curve.radius for _, radii, _ in entries), key=len)
    step = max(1, len(grid) // 5)
    at = list(dict.fromkeys([*grid[::step], grid[-1]]))
    rows: list[list[TableCell]] = []
    for member, radii, _ in entries:
        known = dict(zip(radii.curve.radius, radii.curve.accuracy, strict=True))
        settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in radii.settings.items())
        about = ", ".join(part for part in (f"{len(radii.radius)} images", radii.missing, settings) if part)
        median = "–" if radii.median is None else f"{radii.median:.4g}"
        rows.append(
            [
                TableCell(member.name, about),
                TableCell(median),
                *(TableCell(percent(known.get(radius))) for radius in at),
            ]
        )
    return Table(["model", "median radius", *(f"at {radius:.3g}" for radius in at)], rows)


def _held(chapter: Chapter) -> Table | None:
    """Return on how many images students' radii reach their teacher's."""
    found = [
        (member, certificate.comparisons)
        for member in chapter.members
        for certificate in member.certificates
        if certificate.comparisons
    ]
    kinds = [kind for kind in LABELS if any(kind in against for _, against in found)]
    if not kinds:
        return None
    rows = [
        [
            TableCell(member.name, f"beside {member.taught_by or 'its teacher'}", mark=mark(member.place)),
            *(
                TableCell(percent(against[kind].share_at_least_teacher), span(against[kind].share_interval_95))
                if kind in against
                else TableCell("–")
                for kind in kinds
            ),
        ]
        for member, against in found
    ]
    head = ["model", *(LABELS[kind] for kind in kinds)]
    return Table(head, rows, "Share of images on which the radius is at least the teacher's")


def _guaranteed(chapter: Chapter) -> Table | None:
    """Return what alignment of gradients guarantees of students' radii, where it was held against the data."""
    rows = [
        [
            TableCell(member.name, f"by {LABELS[kind]}", mark=mark(member.place)),
            TableCell(f"{rho:.2f}"),
            TableCell("–" if found.guaranteed is None else f"{found.guaranteed:.3g}"),
            TableCell(percent(found.alignment.median_guaranteed_over_measured)),
        ]
        for member in chapter.members
        for certificate in member.certificates
        for kind, found in certificate.comparisons.items()
        if (rho := found.alignment.median_rho_over_lipschitz) is not None
    ]
    if not rows:
        return None
    head = ["model", "rho / L", "guaranteed radius", "of its own radius"]
    title = "What alignment guarantees: medians; rho / L is 0 where gradients agree in the whole ball"
    return Table(head, rows, title)
