"""What pictures share: marks, and a figure as text."""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.figure import Figure

MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, the same bytes for the same numbers."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "kdiga", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
