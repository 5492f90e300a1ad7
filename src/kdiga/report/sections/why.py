"""Why robustness transferred: gradients, curvature, bounds in their pieces, and pictures of gradients and attacks."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from PIL import Image

from kdiga.report import charts
from kdiga.report.blocks import (
    NO_VALUE,
    Items,
    Key,
    ListItem,
    Picture,
    PictureTable,
    Plot,
    Section,
    Table,
    TableCell,
    key_of,
    mark,
    swatch,
    tick,
)
from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.report.tables import percent_or_dash
from kdiga.results.explanations import BoundRecord, ExplainedModel, ExplanationResult, Gallery, ModelPictures

LEAD = (
    "A small change of the image raises a student's loss less if the loss is nearly linear around the image and its "
    "gradient is close to that of a robust teacher. Curvature is the largest deviation of the loss from a straight "
    "line within eps, in nats."
)
TITLES = {"student": "Student bound", "transfer": "Transfer bound"}
STATEMENTS = {
    "student": "The most by which an attack can raise the student's loss",
    "transfer": "The largest possible difference between the losses of student and teacher on one attacked image",
}
PIECES = {
    "linearity": "curvature of the student's loss",
    "teacher_gradient": "eps times the teacher's gradient",
    "gradient_distance": "eps times the distance of the gradients",
    "clean_gap": "difference of the losses on clean images",
    "student_linearity": "curvature of the student's loss",
    "teacher_linearity": "curvature of the teacher's loss",
}
OPACITY = {
    "linearity": 1.0,
    "student_linearity": 1.0,
    "gradient_distance": 0.62,
    "teacher_gradient": 0.35,
    "teacher_linearity": 0.35,
    "clean_gap": 0.18,
}
PICTURED, PER_TABLE = 6, 3  # images; more would make a page long without saying more
RANKED = 5  # students from which on a ranking says something
CAPTION = (
    "Left of three: the gradient of the loss with respect to the pixels, red where a brighter pixel raises the loss, "
    "blue where it lowers it, each on its own scale; below it, the class that the model gives the image. Middle: what "
    "the attack changes, white where it makes a pixel brighter and black where it makes it darker. Right: the "
    "adversarial image, and the class that the model gives it."
)


def why_section(group: ModelGroup) -> Section | None:
    """Return gradients, linearity and bounds as ``kdiga explain`` measured them; None without any."""
    explained = [(member, member.explained) for member in group.members if member.explained]
    if not explained:
        return None
    blocks: list[Table | Plot | Items] = [_measures(explained)]
    for kind in dict.fromkeys(kind for _, one in explained for kind in one.known_bounds):
        bars = [(member, one.known_bounds[kind]) for member, one in explained if kind in one.known_bounds]
        blocks.append(_bound_plot(group, kind, bars))
    blocks += [table for explanation in group.explanations if (table := _ranking(explanation))]
    if said := list(dict.fromkeys(reason for explanation in group.explanations for reason in explanation.reasons)):
        blocks.append(Items([ListItem(reason) for reason in said if reason], "What kdiga explain says of each student"))
    return Section("Why: gradients, linearity and bounds", blocks, [LEAD])


def _measures(explained: Iterable[tuple[ReportedModel, ExplainedModel]]) -> Table:
    rows = [
        [
            TableCell(member.name, mark=mark(member.place)),
            TableCell(percent_or_dash(one.robust.accuracy if one.robust else None)),
            TableCell(percent_or_dash(one.robustness_kept)),
            _measure(one.gradient.cosine, one.gradient.cosine_interval_95),
            _measure(one.gradient.distance),
            _measure(one.linearity.mean, one.linearity.interval_95),
        ]
        for member, one in explained
    ]
    head = [
        "model",
        "robust accuracy",
        "share of the teacher's",
        "gradient cosine",
        "gradient distance",
        "loss curvature",
    ]
    filled = [column for column in range(len(head)) if column == 0 or any(row[column].text != "–" for row in rows)]
    return Table([head[column] for column in filled], [[row[column] for column in filled] for row in rows])


def _measure(value: float | None, ends: Sequence[float] | None = None) -> TableCell:
    if value is None:
        return NO_VALUE
    return TableCell(f"{value:.3g}", f"{ends[0]:.3g} – {ends[1]:.3g}" if ends else "")


def _bound_plot(group: ModelGroup, kind: str, bars: Sequence[tuple[ReportedModel, BoundRecord]]) -> Plot:
    pieces = list(dict.fromkeys(piece for _, bound in bars for piece in bound.pieces))
    opacity = {piece: OPACITY.get(piece, 1 / (row + 1)) for row, piece in enumerate(pieces)}
    figure, axes = charts.axes_of(charts.WIDTH, 0.9 + 0.52 * len(bars))
    for row, (member, bound) in enumerate(bars):
        left, colour = 0.0, charts.colour(member.place)
        for piece, value in bound.pieces.items():
            axes.barh(row, value, left=left, height=0.4, color=colour, alpha=opacity[piece])
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
        keys=[*(Key(_piece(piece), swatch(opacity[piece])) for piece in pieces), Key("largest measured", tick())],
        caption=f"{STATEMENTS.get(kind, title)}, mean over the images. The bound is loose where its bar ends far "
        "to the right of the black mark. By construction a mark never exceeds its bar: this checks the software and is "
        "not evidence.",
        numbers=_bound_numbers(bars, pieces),
    )


def _bound_numbers(bars: Sequence[tuple[ReportedModel, BoundRecord]], pieces: Sequence[str]) -> Table:
    rows = [
        [
            TableCell(member.name),
            *(TableCell(f"{bound.pieces[piece]:.4g}") if piece in bound.pieces else NO_VALUE for piece in pieces),
            TableCell(f"{bound.mean:.4g}"),
            TableCell(f"{bound.measured:.4g}"),
            TableCell(percent_or_dash(bound.tightness)),
        ]
        for member, bound in bars
    ]
    return Table(["model", *map(_piece, pieces), "bound", "largest measured", "tightness"], rows)


def _piece(piece: str) -> str:
    return PIECES.get(piece, piece.replace("_", " "))


def _ranking(explanation: ExplanationResult) -> Table | None:
    """Return how measures rank the students; None if that was not computed or there are few students."""
    if len(explanation.models) - 1 < RANKED:
        return None
    rows: list[list[TableCell]] = []
    for entry in explanation.ranking:
        value, ends, count = entry.spearman, entry.interval_95, entry.models
        sure = f"{ends[0]:.2f} – {ends[1]:.2f}" if ends else ""
        rows.append(
            [
                TableCell(str(entry.bound).replace("_", " ")),
                TableCell("undefined") if value is None else TableCell(f"{value:.2f}", sure),
                NO_VALUE if entry.p_value is None else TableCell(f"{entry.p_value:.2g}"),
                TableCell(str(len(count) if isinstance(count, list) else count)),
            ]
        )
    head = ["measure", "rank correlation", "probability by chance", "students"]
    return (
        Table(head, rows, "How well each measure predicts the order of the students by robust accuracy")
        if rows
        else None
    )


def gallery_section(group: ModelGroup) -> Section | None:
    """Return images, input gradients and adversarial examples of the explanations; None without any."""
    tables = [
        table for found in group.explanations if found.gallery for table in _pictures(group, found, found.gallery)
    ]
    return Section("Input gradients and adversarial examples", tables) if tables else None


def _pictures(group: ModelGroup, explanation: ExplanationResult, gallery: Gallery) -> Iterator[PictureTable]:
    """Yield the tables of an explanation; its models are in the order of the page."""
    order = {id(member.explained): row for row, member in enumerate(group.members)}
    found = sorted(
        zip(explanation.models, gallery.models, strict=True), key=lambda pair: order.get(id(pair[0]), len(order))
    )
    amplified = _amplification(gallery)
    for start in range(0, min(PICTURED, len(gallery.images)), PER_TABLE):
        shown = range(start, min(start + PER_TABLE, PICTURED, len(gallery.images)))
        rows: list[tuple[Key, list[list[Picture]]]] = [
            (Key("test image", Markup()), [[_image(gallery, row)] for row in shown])
        ]
        for one, pictures in found:
            place = order.get(id(one))
            key = Key(one.name, mark(None)) if place is None else key_of(group.members[place])
            rows.append((key, [_three(gallery, pictures, row, key.name, amplified) for row in shown]))
        yield PictureTable(
            f"Test images {shown[0] + 1} to {shown[-1] + 1}",
            rows,
            f"{CAPTION} Changes are enlarged {amplified:.3g} times.",
        )


def _amplification(gallery: Gallery) -> float:
    """Return the factor that makes the largest change of any pixel span half of the range of pixels."""
    changes = [np.abs(pictures.adversarial - gallery.images).max() for pictures in gallery.models]
    return 0.5 / (float(max(changes, default=0)) or 0.5)


def _image(gallery: Gallery, row: int) -> Picture:
    label = _class(gallery, gallery.labels[row])
    return Picture(_pixels(gallery.images[row]), f"Test image {row + 1} of class {label}", label)


def _three(gallery: Gallery, pictures: ModelPictures, row: int, name: str, amplified: float) -> list[Picture]:
    """Return gradient, change and adversarial image of a model, with the class that the model gives each image."""
    about = f"image {row + 1}, {_class(gallery, gallery.labels[row])}"
    change = amplified * (pictures.adversarial[row] - gallery.images[row]) + 0.5
    found: list[Picture] = []
    for uri, alt, predictions in (
        (_gradient(pictures.gradient[row]), f"Input gradient of {name} at {about}", pictures.predictions),
        (_pixels(change), f"What the attack on {name} changes in {about}", None),
        (_pixels(pictures.adversarial[row]), f"Adversarial version for {name} of {about}", pictures.fooled),
    ):
        words, verdict = "", ""
        if predictions is not None:
            words = _class(gallery, predictions[row])
            verdict = "right" if predictions[row] == gallery.labels[row] else "wrong"
        found.append(Picture(uri, alt + (f", classified as {words}" if words else ""), words, verdict))
    return found


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
