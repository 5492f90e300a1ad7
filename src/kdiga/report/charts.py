"""Figures for pages and files: colours in light and dark, markers, and SVG whose names occur once on a page."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from kdiga.io.atomic_write import replacing

# Colours while drawing, which become CSS variables on the page. Colour-blind readers can distinguish them (after Okabe
# and Ito); they are darkened on white and lightened on black to a contrast of 3 to 1.
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
    """Draw figures in the page's style; texts are never read as formulas."""
    with mpl.rc_context(rc=STYLE):
        yield


def panels_of(count: int, width: float, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with panels, in rows of at most so many, that share the vertical axis.

    The width is of the figure and the height of a row, in inches.
    """
    rows, columns = -(-count // columns), min(count, columns)
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def axes_of(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty figure of one panel, in inches."""
    figure, (axes,) = panels_of(1, width, height)
    return figure, axes


def draw_line(
    axes: Axes,
    place: int | None,
    at: Sequence[float],
    values: Sequence[float],
    *,
    intervals: Sequence[tuple[float, float]] = (),
    markers: int = 0,
    label: str | None = None,
) -> None:
    """Draw the line of a series; its place is None or -1 for the teacher's style.

    There are about ``markers`` markers along the line, 0 for one at each point, and a bar for each interval.
    """
    place = -1 if place is None else place
    axes.errorbar(
        at,
        values,
        yerr=bars(values, intervals) if intervals else None,
        elinewidth=1,
        capsize=2.5,
        color=colour(place),
        marker=marker(place),
        markersize=9.0 if place < 0 else 5.5,  # a star seems smaller than other markers
        markevery=max(1, len(at) // markers) if markers else None,
        linestyle="--" if place < 0 else "-",
        label=label,
    )


def bars(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the lengths of error bars below and above each value."""
    pairs = list(zip(values, intervals, strict=True))
    return [
        [max(0.0, value - low) for value, (low, _) in pairs],
        [max(0.0, high - value) for value, (_, high) in pairs],
    ]


def cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Show costs above 0 on the horizontal axis, on a logarithmic scale if they differ much."""
    if max(costs) <= 3 * min(costs):
        axes.set_xlim(0, 1.1 * max(costs))
        return
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.4, max(costs) * 1.4)
    few = max(costs) < 60 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter("{x:,.12g}")  # 0.5, not 5 x 10^-1


def legend(figure: Figure, *panels: Axes) -> None:
    """Write the legend of some panels above a figure, each label once."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels, handles = list(found), list(found.values())
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), frameon=False, fontsize=9)


def dotted_line(axes: Axes, eps: float) -> None:
    """Draw a dotted line at the threat model's eps, or at another place of note."""
    axes.axvline(eps, color=SOFT, linewidth=1.2, linestyle=":")


def percent_axis(axes: Axes) -> None:
    """Show shares on the vertical axis, in percent from 0 to 100."""
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def colour(place: int | None) -> str:
    """Return the colour of a series by its place; that of text for -1, grey for None."""
    return SOFT if place is None else INK if place < 0 else SERIES[place % len(SERIES)][0]


def marker(place: int) -> str:
    """Return the marker of a series by its place."""
    return "*" if place < 0 else MARKERS[(place + place // len(SERIES)) % len(MARKERS)]


def write_png(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure as a PNG file at once or not at all."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", **options)


def file_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for a file, the same bytes for the same numbers."""
    return _svg(figure, {"svg.hashsalt": "kdiga", "svg.fonttype": "none"}, {"Date": None})


def _svg(figure: Figure, style: Any, metadata: Any, **options: Any) -> str:
    written = io.StringIO()
    with mpl.rc_context(rc=style):
        figure.savefig(written, format="svg", metadata=metadata, **options)
    return written.getvalue()[written.getvalue().index("<svg") :]


def inline_svg(figure: Figure, key: str) -> Markup:
    """Return a figure, drawn in :func:`drawing`, as an SVG element for a page: the same bytes for the same figure.

    It has no size, title or role. The key describes the figure and is unique on the page; all names in the SVG begin
    with its hash.
    """
    key = "k" + hashlib.sha256(key.encode()).hexdigest()[:10]
    metadata = {"Date": None, "Creator": None}
    svg = _svg(figure, STYLE | {"svg.hashsalt": "kdiga"}, metadata, transparent=True).strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, count=1, flags=re.DOTALL)
    # This style would apply to the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height|version|xmlns:xlink|xmlns)="[^"]*"', "", opening)
    rest = re.sub(r'(?<=style=")[^"]*(?=")', lambda found: _style(found.group()), rest)
    element = f'{opening} focusable="false" aria-hidden="true">{rest}'.replace("xlink:href", "href")
    return Markup(_with_key(element, key))


def page_colours() -> str:
    """Return the series' colours as CSS variables, first for light pages, then for dark ones."""
    light, dark = (" ".join(f"--c{place}: {pair[side]};" for place, pair in enumerate(SERIES)) for side in (0, 1))
    return f":root {{ {light} }} @media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def _style(style: str) -> str:
    style = re.sub(r"font(-family)?: [^;]*'[^;]*;?\s*", "", style) if "font-family" in style else style
    return re.sub(r"#[0-9a-f]{6}", lambda found: PAGE.get(found.group(), found.group()), style)


def _with_key(svg: str, key: str) -> str:
    """Begin every name that is referred to with the key, and remove the others."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}-{found.group(1)}"' if found.group(1) in used else "", svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", svg)
