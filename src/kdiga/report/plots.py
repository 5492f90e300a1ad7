"""What pictures and tables share: marks, a figure as text, a file that is whole or not there."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from kdiga.io.atomic_write import replacing

MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, the same bytes for the same numbers."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "kdiga", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file's content at once or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)
