"""Why robustness transferred: gradients, linearity, bounds in their pieces, and pictures of what each model sees."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
from PIL import Image

from kdiga.report import charts
from kdiga.report.blocks import (
    NO_VALUE,
    Key,
    Picture,
    PictureTable,
    Plot,
    Section,
    Table,
    TableCell,
    commands_of,
    mark,
    swatch,
    tick,
)
from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.report.tables import percent
from kdiga.results.explanations import BoundRecord, ExplainedModel, ExplanationResult, Gallery, ModelPictures

TITLES = {"student": "Student bound", "transfer": "Transfer bound"}
STATEMENTS = {
    "student": "The most that an attack can raise the student's loss",
    "transfer": "The most that the losses of student and teacher can lie apart at one attacked image",
}
# The name of each piece of a bound, and the place of its colour.
PIECES = {
    "linearity": ("student's remainder from linearity", 0),
    "teacher_gradient": ("eps times the teacher's gradient", 4),
    "gradient_distance": ("eps times the gradients' distance", 1),
    "clean_gap": ("losses apart on clean images", 3),
    "student_linearity": ("student's remainder from linearity", 0),
    "teacher_linearity": ("teacher's remainder from linearity", 2),
}
PICTURED = 6  # images; more would make a page long without saying more


def why_section(group: ModelGroup) -> Section | None:
    """Return gradients, linearity and bounds as ``kdiga explain`` measured them; None without any."""
    explained = [(member, member.explained) for member in group.members if member.explained]
    if not explained:
        return None
    commands = commands_of(explanation.origin for explanation in group.explanations)
    blocks: list[Table | Plot] = [_measures(explained)]
    for kind in dict.fromkeys(kind for _, one in explained for kind in one.known_bounds):
        bars = [(member, one.known_bounds[kind]) for member, one in explained if kind in one.known_bounds]
        blocks.append(_bound_plot(group, kind, bars, commands))
    blocks += [table for explanation in group.explanations if (table := _ranking(explanation))]
    return Section("Why: gradients, linearity and bounds", blocks)


def _measures(explained: Iterable[tuple[ReportedModel, ExplainedModel]]) -> Table:
    rows = [
        [
            TableCell(member.name, mark=mark(member.place)),
            TableCell(percent(one.robust.accuracy if one.robust else None)),
            TableCell(percent(one.robustness_kept)),
            _measure(one.gradient.cosine, one.gradient.cosine_interval_95),
            _measure(one.gradient.distance),
            _measure(one.linearity.mean, one.linearity.interval_95),
        ]
        for member, one in explained
    ]
    head = ["model", "robust", "of the teacher's", "gradient cosine", "gradient distance", "remainder from linearity"]
    filled = [column for column in range(len(head)) if column == 0 or any(row[column].text != "–" for row in rows)]
    return Table([head[column] for column in filled], [[row[column] for column in filled] for row in rows])


def _measure(value: float | None, ends: Sequence[float] | None = None) -> TableCell:
    if value is None:
        return NO_VALUE
    return TableCell(f"{value:.3g}", f"{ends[0]:.3g} – {ends[1]:.3g}" if ends else "")


def _bound_plot(
    group: ModelGroup, kind: str, bars: Sequence[tuple[ReportedModel, BoundRecord]], commands: Sequence[str]
) -> Plot:
    pieces = list(dict.fromkeys(piece for _, bound in bars for piece in bound.pieces))
    hue = {piece: PIECES[piece][1] if piece in PIECES else 5 + row % 3 for row, piece in enumerate(pieces)}
    figure, axes = charts.axes_of(charts.WIDTH, 0.9 + 0.52 * len(bars))
    for row, (member, bound) in enumerate(bars):
        left = 0.0
        for piece, value in bound.pieces.items():
            axes.barh(row, value, left=left, height=0.4, color=charts.colour(hue[piece]))
            left += value
        axes.plot([bound.measured] * 2, [row - 0.3, row + 0.3], color=charts.INK, linewidth=2.5, solid_capstyle="butt")
        name = member.name if len(member.name) <= 34 else f"…{member.name[-33:]}"
        axes.text(0, row - 0.28, name, ha="left", va="bottom")
    axes.set(xlabel="loss (nats)", yticks=[], xlim=(0, None), ylim=(len(bars) - 0.5, -0.8))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    svg = charts.inline_svg(figure, f"bound {kind} {group.conditions.key}")
    alt = "; ".join(
        f"{member.name} {bound.mean:.3g} ({', '.join(f'{_piece(p)} {v:.3g}' for p, v in bound.pieces.items())}), "
        f"measured {bound.measured:.3g}"
        for member, bound in bars
    )
    title = TITLES.get(kind, kind)
    return Plot(
        title=f"{title}, in its pieces",
        svg=svg,
        alt=f"{title} in nats, mean over the images. {alt}.",
        keys=[*(Key(_piece(piece), swatch(hue[piece])) for piece in pieces), Key("worst measured", tick())],
        caption=f"{STATEMENTS.get(kind, title)}, mean over the images. A bar that ends far "
        "right of the stroke is a loose bound. That no stroke is beyond its bar tests the software; it is no evidence.",
        commands=commands,
        numbers=_bound_numbers(bars, pieces),
    )


def _bound_numbers(bars: Sequence[tuple[ReportedModel, BoundRecord]], pieces: Sequence[str]) -> Table:
    rows = [
        [
            TableCell(member.name),
            *(TableCell(f"{bound.pieces[piece]:.4g}") if piece in bound.pieces else NO_VALUE for piece in pieces),
            TableCell(f"{bound.mean:.4g}"),
            TableCell(f"{bound.measured:.4g}"),
            TableCell(percent(bound.tightness)),
        ]
        for member, bound in bars
    ]
    return Table(["model", *map(_piece, pieces), "bound", "worst measured", "tightness"], rows)


def _piece(piece: str) -> str:
    return PIECES[piece][0] if piece in PIECES else piece.replace("_", " ")


def _ranking(explanation: ExplanationResult) -> Table | None:
    """Return how measures rank the students; None if that was not computed."""
    rows: list[list[TableCell]] = []
    for entry in explanation.ranking:
        value, ends, count = entry.spearman, entry.interval_95, entry.models
        sure = f"{ends[0]:.2f} – {ends[1]:.2f}" if ends else ""
        rows.append(
            [
                TableCell(str(entry.bound).replace("_", " ")),
                TableCell("too few students") if value is None else TableCell(f"{value:.2f}", sure),
                NO_VALUE if entry.p_value is None else TableCell(f"{entry.p_value:.2g}"),
                TableCell(str(len(count) if isinstance(count, list) else count)),
            ]
        )
    head = ["measure", "rank correlation", "p of an order by chance", "students"]
    return Table(head, rows, "How each measure orders the students, beside their robust accuracy") if rows else None


def gallery_section(group: ModelGroup) -> Section | None:
    """Return images, input gradients and adversarial examples of the explanations; None without any."""
    tables = [_pictures(group, found, found.gallery) for found in group.explanations if found.gallery]
    return Section("Input gradients and adversarial examples", tables) if tables else None


def _pictures(group: ModelGroup, explanation: ExplanationResult, gallery: Gallery) -> PictureTable:
    by_part = {id(member.explained): member for member in group.members}
    names, head = [], ["image"]
    for one in explanation.models:
        member = by_part.get(id(one))
        names.append(member.name if member else one.name)
        head.append(f"{names[-1]} (teacher)" if member and member.place == -1 else names[-1])
    rows = [
        [
            [_image(gallery, row)],
            *(_pair(gallery, pictures, row, name) for pictures, name in zip(gallery.models, names, strict=True)),
        ]
        for row in range(min(PICTURED, len(gallery.images)))
    ]
    return PictureTable(
        title="The same test images through the eyes of each model",
        head=head,
        rows=rows,
        caption="Left of each pair: the gradient of the loss with respect to the pixels, red where a brighter pixel "
        "raises the loss, blue where it lowers it, each on its own scale. Right: the adversarial image found for that "
        "model, and the class the model gives it.",
        commands=commands_of([explanation.origin]),
    )


def _image(gallery: Gallery, row: int) -> Picture:
    label = _class(gallery, gallery.labels[row])
    return Picture(_pixels(gallery.images[row]), f"Test image {row + 1} of class {label}", label)


def _pair(gallery: Gallery, pictures: ModelPictures, row: int, name: str) -> list[Picture]:
    """Return gradient and adversarial image of a model, with the class that the model gives each image."""
    about = f"image {row + 1}, {_class(gallery, gallery.labels[row])}"
    pair: list[Picture] = []
    for uri, alt, predictions in (
        (_gradient(pictures.gradient[row]), f"Input gradient of {name} at {about}", pictures.predictions),
        (_pixels(pictures.adversarial[row]), f"Adversarial version for {name} of {about}", pictures.fooled),
    ):
        words, verdict = "", ""
        if predictions is not None:
            words = _class(gallery, predictions[row])
            verdict = "right" if predictions[row] == gallery.labels[row] else "wrong"
        pair.append(Picture(uri, alt + (f", which it takes for {words}" if words else ""), words, verdict))
    return pair


def _class(gallery: Gallery, label: int) -> str:
    return gallery.classes[label] if 0 <= label < len(gallery.classes) else str(label)


def _pixels(image: np.ndarray) -> str:
    levels = np.round(np.clip(np.moveaxis(image, 0, -1), 0, 1) * 255).astype(np.uint8)
    return _uri(levels[..., 0] if levels.shape[-1] == 1 else levels)


def _gradient(gradient: np.ndarray) -> str:
    summed = gradient.astype(np.float64).sum(0)
    largest = float(np.abs(summed).max()) or 1.0
    colours = mpl.colormaps["RdBu_r"]((summed / largest + 1) / 2, bytes=True)
    return _uri(np.asarray(colours)[..., :3])


def _uri(levels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(data, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
