"""Parts of sections; the template turns each into HTML and escapes every text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from kdiga.report.groups import ReportedModel

DASHES = ("none", "7 3", "8 2.5 2 2.5", "2.5 2.5")  # as LINES, for the legend
LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class TableCell:
    """A table's cell: text, smaller text below it, a share in [0, 1] drawn as a bar, a mark in front."""

    text: str
    small: str = ""
    bar: float | None = None
    mark: Markup | None = None


NO_VALUE = TableCell("–")


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    caption: str = ""


@dataclass(frozen=True)
class Key:
    """An entry of a figure's legend."""

    name: str
    mark: Markup


@dataclass(frozen=True)
class Plot:
    """A figure with title, legend, caption and its numbers."""

    title: str
    svg: Markup
    alt: str  # what the figure shows, in numbers
    keys: Sequence[Key] = ()
    caption: str = ""
    numbers: Table | None = None
    wide: bool = False  # whether it takes the whole width of the page
    least: float = 0  # width in rem below which it scrolls in its card


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with words below it; the verdict is "right", "wrong" or ""."""

    uri: str
    alt: str
    words: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class PictureTable:
    """Pictures in rows: the first row has the images, each further row has one model's pictures of them."""

    title: str
    rows: Sequence[tuple[Key, Sequence[Sequence[Picture]]]]
    caption: str


@dataclass(frozen=True)
class ListItem:
    """A line of a list: title, text, command; the tone is a finding's verdict or ""."""

    text: str
    tone: str = ""
    title: str = ""
    command: str = ""


@dataclass(frozen=True)
class Items:
    """A list; with ``folded``, one that is opened by that title."""

    items: Sequence[ListItem]
    folded: str = ""


Block = Table | Plot | PictureTable | Items


@dataclass(frozen=True)
class Section:
    """A part of the page under its heading."""

    title: str
    blocks: Sequence[Block]
    lead: Sequence[str] = ()

    def groups(self) -> list[tuple[str, list[Block]]]:
        """Return the blocks by kind; neighbouring figures stand next to each other on the page."""
        return [(kind, list(blocks)) for kind, blocks in groupby(self.blocks, key=lambda block: type(block).__name__)]


def mark(place: int | None) -> Markup:
    """Return a series' marker as a small SVG that follows the page's colours."""
    ink = "var(--soft)" if place is None else "currentColor" if place < 0 else f"var(--c{place % 8})"
    return _icon("-6 -6 12 12", f'<g style="fill: {ink}">{_shape(place)}</g>')


def swatch(opacity: float) -> Markup:
    """Return a filled square that is as opaque as a piece of a bar."""
    return _icon("0 0 12 12", f'<rect width="12" height="12" rx="2" style="fill: currentColor; opacity: {opacity}"/>')


def dash(place: int) -> Markup:
    """Return a line with the dashes of a place."""
    opacity = 1 if place < 4 else 0.5
    style = f"stroke: currentColor; stroke-width: 3; stroke-dasharray: {DASHES[place % 4]}; opacity: {opacity}"
    return _icon("0 0 27 12", f'<path d="M0 6h27" style="{style}"/>', "mark line")


def tick() -> Markup:
    """Return the upright stroke by which bars mark what was measured."""
    return _icon("0 0 12 12", '<rect x="4.5" width="3" height="12" style="fill: currentColor"/>')


def _icon(box: str, shape: str, kind: str = "mark") -> Markup:
    svg = f'<svg class="{kind}" viewBox="{box}" aria-hidden="true" focusable="false">{shape}</svg>'
    return Markup(svg)


def key_of(member: ReportedModel) -> Key:
    """Return a model's entry in a legend."""
    return Key(teacher_name(member.name) if member.place == -1 else member.name, mark(member.place))


def teacher_name(name: str) -> str:
    """Return a teacher's name in a legend."""
    return name if name == "teacher" else f"{name} (teacher)"


def _shape(place: int | None) -> str:
    if place is None:
        return '<circle r="3"/>'
    if place < 0:
        return _polygon([(5.5 if corner % 2 == 0 else 2.4, 36 * corner - 90) for corner in range(10)])
    shapes = (
        '<circle r="4.2"/>',
        '<rect x="-4" y="-4" width="8" height="8"/>',
        _polygon([(5.2, 90 * corner) for corner in range(4)]),
        _polygon([(5, 120 * corner - 90) for corner in range(3)]),
        _polygon([(5, 120 * corner + 90) for corner in range(3)]),
        '<path d="M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z"/>',
        '<path transform="rotate(45)" d="M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z"/>',
        _polygon([(4.8, 72 * corner - 90) for corner in range(5)]),
    )
    return shapes[place % len(shapes)]


def _polygon(corners: Sequence[tuple[float, float]]) -> str:
    points = " ".join(
        f"{reach * math.cos(math.radians(angle)):.2f},{reach * math.sin(math.radians(angle)):.2f}"
        for reach, angle in corners
    )
    return f'<polygon points="{points}"/>'
