"""Why robustness came over or did not: bounds in pieces beside the worst that was measured, gradients, linearity."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Key, Plot, Section, Table, TableCell, commands_of, mark, swatch, tick
from kdiga.report.theme import INK, WIDTH, axes_of, colour, drawing, inline_svg, short_key
from kdiga.report.wording import percent
from kdiga.results.explanations import BoundRecord, ExplanationResult

TITLES = {"student": "Student bound", "transfer": "Transfer bound"}
SAYS = {
    "student": "The most that an attack can raise the student's loss",
    "transfer": "The most that the losses of student and teacher can lie apart at one attacked image",
}
PIECES = {
    "linearity": "student's remainder from linearity",
    "teacher_gradient": "eps times the teacher's gradient",
    "gradient_distance": "eps times the gradients' distance",
    "clean_gap": "losses apart on clean images",
    "student_linearity": "student's remainder from linearity",
    "teacher_linearity": "teacher's remainder from linearity",
}
COLOURS = {
    "linearity": 0,
    "student_linearity": 0,
    "teacher_gradient": 4,
    "gradient_distance": 1,
    "clean_gap": 3,
    "teacher_linearity": 2,
}


def why_section(chapter: Chapter) -> Section | None:
    """Return bounds, gradients and linearity as ``kdiga explain`` measured them; None without any."""
    explained = [member for member in chapter.members if member.explained]
    if not explained:
        return None
    commands = commands_of([explanation.origin for explanation in chapter.explanations])
    kinds = list(dict.fromkeys(kind for one in explained if one.explained for kind in one.explained.known_bounds))
    blocks: list[Table | Plot] = [_table(explained)]
    for kind in kinds:
        bars = [
            (member, member.explained.known_bounds[kind])
            for member in explained
            if member.explained and kind in member.explained.known_bounds
        ]
        blocks.append(_plot(chapter, kind, bars, commands))
    blocks += [table for explanation in chapter.explanations if (table := _ranking(explanation))]
    return Section("Why: gradients, linearity and bounds", blocks)


def _table(explained: Sequence[ReportedModel]) -> Table:
    rows: list[list[TableCell]] = []
    for member in explained:
        one = member.explained
        assert one is not None
        rows.append(
            [
                TableCell(member.name, mark=mark(member.place)),
                TableCell(percent(one.robust.accuracy if one.robust else None)),
                TableCell(percent(one.robustness_kept)),
                _measure(one.gradient.cosine, one.gradient.cosine_interval_95),
                _measure(one.gradient.distance),
                _measure(one.linearity.mean, one.linearity.interval_95),
            ]
        )
    head = ["model", "robust", "of the teacher's", "gradient cosine", "gradient distance", "remainder from linearity"]
    kept = [column for column in range(len(head)) if column == 0 or any(row[column].text != "–" for row in rows)]
    return Table([head[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _measure(value: float | None, ends: Sequence[float] | None = None) -> TableCell:
    if value is None:
        return TableCell("–")
    return TableCell(f"{value:.3g}", f"{ends[0]:.3g} – {ends[1]:.3g}" if ends else "")


def _plot(
    chapter: Chapter, kind: str, bars: Sequence[tuple[ReportedModel, BoundRecord]], commands: Sequence[str]
) -> Plot:
    pieces = list(dict.fromkeys(piece for _, split in bars for piece in split.pieces))
    hue = {piece: COLOURS.get(piece, 5 + row % 3) for row, piece in enumerate(pieces)}
    with drawing():
        figure, axes = axes_of(WIDTH, 0.9 + 0.52 * len(bars))
        for row, (member, split) in enumerate(bars):
            left = 0.0
            for piece, value in split.pieces.items():
                axes.barh(row, value, left=left, height=0.4, color=colour(hue[piece]))
                left += value
            axes.plot([split.measured] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2.5, solid_capstyle="butt")
            axes.text(0, row - 0.28, _short(member.name), ha="left", va="bottom")
        axes.set(xlabel="loss (nats)", yticks=[], xlim=(0, None), ylim=(len(bars) - 0.5, -0.8))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        svg = inline_svg(figure, short_key(f"bound {kind} {chapter.conditions.key}"))
    alt = "; ".join(
        f"{member.name} {split.mean:.3g} ({', '.join(f'{_named(p)} {v:.3g}' for p, v in split.pieces.items())}), "
        f"measured {split.measured:.3g}"
        for member, split in bars
    )
    title = TITLES.get(kind, kind)
    return Plot(
        title=f"{title}, in its pieces",
        svg=Markup(svg),
        alt=f"{title} in nats, mean over the images. {alt}.",
        keys=[*(Key(_named(piece), swatch(hue[piece])) for piece in pieces), Key("worst measured", tick())],
        caption=f"{SAYS.get(kind, title)}, mean over the images. A bar that ends far "
        "right of the stroke is a loose bound. That no stroke is beyond its bar tests the software; it is no evidence.",
        commands=commands,
        numbers=_numbers(bars, pieces),
    )


def _numbers(bars: Sequence[tuple[ReportedModel, BoundRecord]], pieces: Sequence[str]) -> Table:
    rows = [
        [
            TableCell(member.name),
            *(TableCell(f"{split.pieces[piece]:.4g}" if piece in split.pieces else "–") for piece in pieces),
            TableCell(f"{split.mean:.4g}"),
            TableCell(f"{split.measured:.4g}"),
            TableCell(percent(split.tightness)),
        ]
        for member, split in bars
    ]
    return Table(["model", *map(_named, pieces), "bound", "worst measured", "tightness"], rows)


def _named(piece: str) -> str:
    return PIECES.get(piece, piece.replace("_", " "))


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"…{name[-33:]}"


def _ranking(explanation: ExplanationResult) -> Table | None:
    """Return how measures rank the students; None where that was not asked."""
    rows: list[list[TableCell]] = []
    for entry in explanation.ranking:
        value, ends, chance = entry.spearman, entry.interval_95, entry.p_value
        count = len(entry.models) if isinstance(entry.models, list) else entry.models
        sure = f"{ends[0]:.2f} – {ends[1]:.2f}" if ends else ""
        rows.append(
            [
                TableCell(str(entry.bound).replace("_", " ")),
                TableCell("too few students") if value is None else TableCell(f"{value:.2f}", sure),
                TableCell("–" if chance is None else f"{chance:.2g}"),
                TableCell(str(count)),
            ]
        )
    head = ["measure", "rank correlation", "p of an order by chance", "students"]
    return Table(head, rows, "How each measure orders the students, beside their robust accuracy") if rows else None
