"""Images, input gradients and adversarial examples side by side, with what each model sees in them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from PIL import Image

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Picture, PictureTable, Section, commands_of
from kdiga.results.explanations import ExplanationResult, Gallery, ModelPictures

SHOWN = 6  # images; more would make a page long without saying more


def gallery_section(chapter: Chapter) -> Section | None:
    """Return the pictures of a chapter's explanations; None without any."""
    tables = [_table(chapter, found, found.gallery) for found in chapter.explanations if found.gallery]
    return Section("Input gradients and adversarial examples", tables) if tables else None


def _table(chapter: Chapter, explanation: ExplanationResult, gallery: Gallery) -> PictureTable:
    by_part = {id(member.explained): member for member in chapter.members}
    members = [by_part.get(id(one)) for one in explanation.models]
    names = [member.name if member else one.name for member, one in zip(members, explanation.models, strict=True)]
    rows = [
        [
            [_clean(gallery, row)],
            *(_cell(gallery, seen, row, name) for seen, name in zip(gallery.models, names, strict=True)),
        ]
        for row in range(min(SHOWN, len(gallery.images)))
    ]
    caption = (
        "Left of each pair: the gradient of the loss with respect to the pixels, red where a brighter pixel raises the "
        "loss, blue where it lowers it, each on its own scale. Right: the adversarial image found for that model, and "
        "the class the model gives it."
    )
    return PictureTable(
        title="The same test images through the eyes of each model",
        head=["image", *(_head(name, member) for name, member in zip(names, members, strict=True))],
        rows=rows,
        caption=caption,
        commands=commands_of([explanation.origin]),
    )


def _head(name: str, member: ReportedModel | None) -> str:
    return f"{name} (teacher)" if member and member.place == -1 else name


def _clean(gallery: Gallery, row: int) -> Picture:
    label = _class(gallery, gallery.labels[row])
    return Picture(_pixels(gallery.images[row]), f"Test image {row + 1} of class {label}", label)


def _cell(gallery: Gallery, seen: ModelPictures, row: int, name: str) -> list[Picture]:
    about = f"image {row + 1}, {_class(gallery, gallery.labels[row])}"
    words, verdict = _sees(gallery, seen.predictions, row)
    alt = f"Input gradient of {name} at {about}" + (f", which it takes for {words}" if words else "")
    gradient = Picture(_gradient(seen.gradient[row]), alt, words, verdict)
    words, verdict = _sees(gallery, seen.fooled, row)
    alt = f"Adversarial version for {name} of {about}" + (f", which it takes for {words}" if words else "")
    return [gradient, Picture(_pixels(seen.adversarial[row]), alt, words, verdict)]


def _sees(gallery: Gallery, predictions: Sequence[int] | None, row: int) -> tuple[str, str]:
    if predictions is None:
        return "", ""
    return _class(gallery, predictions[row]), "right" if predictions[row] == gallery.labels[row] else "wrong"


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
