"""Figures that take part in the page: its ink in light and dark, its letters, and no name of their own twice."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# Stand-ins while drawing; in the page they become the page's own colours. Each is told from the others by the
# colour-blind, after Okabe and Ito, darkened on white and lightened on black until lines stand out 3 to 1.
INK, SOFT, GRID = "#000000", "#515253", "#e1e2e3"
SERIES = (
    ("#0072b2", "#4aa8e8"),
    ("#d55e00", "#f08a4b"),
    ("#00805c", "#2fc79a"),
    ("#b3508a", "#e69ccb"),
    ("#8a6500", "#f2bf4a"),
    ("#6b3fa0", "#b794e6"),
    ("#2b83ad", "#8fd0f5"),
    ("#6b6b70", "#b4b4bd"),
)
# The figures of tables that also stand alone, in files, are drawn in these.
ALONE = {
    "#e5e5e5": "var(--line)",
    "#888888": "var(--soft)",
    "#555555": "var(--soft)",
    "#d55e00": "var(--c1)",
    "#009e73": "var(--c2)",
    "#cc79a7": "var(--c3)",
    "#e69f00": "var(--c4)",
    "#7b3fa0": "var(--c5)",
    "#56b4e9": "var(--c6)",
    "#8c564b": "var(--c7)",
}
PAGE = {INK: "currentColor", SOFT: "var(--soft)", GRID: "var(--line)"} | {
    light: f"var(--c{place})" for place, (light, _) in enumerate(SERIES)
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
WIDTH, HEIGHT = 4.4, 3.1  # inches: a phone's width, so that letters stay readable there
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.titlesize": 11,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
}


@contextmanager
def drawing() -> Generator[None]:
    """Draw figures in the page's manner; texts are taken as they are, never as formulas."""
    with mpl.rc_context(rc=STYLE):
        yield


def axes_of(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty figure of one panel, in inches; its labels can be measured."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def percent_axis(axes: Axes) -> None:
    """Let the vertical axis show shares, in percent from 0 to 100."""
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def colour(place: int) -> str:
    """Return the colour of a series by its place; the ink itself before the first."""
    return INK if place < 0 else SERIES[place % len(SERIES)][0]


def marker(place: int) -> str:
    """Return the marker of a series by its place."""
    return "*" if place < 0 else MARKERS[(place + place // len(SERIES)) % len(MARKERS)]


def marker_size(place: int) -> float:
    """Return a marker's size in points: a star fills less of its own."""
    return 9.0 if place < 0 else 5.5


def inline_svg(figure: Figure, key: str) -> str:
    """Return a figure as an SVG element for a page.

    Args:
        figure: drawn in :func:`drawing`.
        key: which no other figure of the page has; all names in the SVG begin with it.

    Returns:
        the element without size, title or role; the same bytes for the same figure.
    """
    written = io.StringIO()
    with mpl.rc_context(rc=STYLE | {"svg.hashsalt": "kdiga"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)  # it meant the page
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height|version|xmlns:xlink|xmlns)="[^"]*"', "", opening)
    rest = re.sub(r'(?<=style=")[^"]*(?=")', lambda found: _style(found.group()), rest)
    return _named(f'{opening} focusable="false" aria-hidden="true">{rest}'.replace("xlink:href", "href"), key)


def page_colours() -> str:
    """Return the series' colours as CSS variables, first for light pages, then for dark ones."""
    light, dark = (" ".join(f"--c{place}: {pair[side]};" for place, pair in enumerate(SERIES)) for side in (0, 1))
    return f":root {{ {light} }} @media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def short_key(text: str) -> str:
    """Return a name for a part of the page that is made of letters and digits alone."""
    return "k" + hashlib.sha256(text.encode()).hexdigest()[:10]


def _style(style: str) -> str:
    style = re.sub(r"font(-family)?: [^;]*'[^;]*;?\s*", "", style) if "font-family" in style else style
    return re.sub(r"#[0-9a-f]{6}", lambda found: (ALONE | PAGE).get(found.group(), found.group()), style)


def _named(svg: str, key: str) -> str:
    """Keep those names that something refers to, and let them begin with the key."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}-{found.group(1)}"' if found.group(1) in used else "", svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", svg)
