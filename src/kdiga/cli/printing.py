"""Lines and tables on a terminal, and in a log as wide as they need to be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdiga.errors import printable
from kdiga.statistics import percent

if TYPE_CHECKING:
    from rich.console import Console

    from kdiga.data import DataSet


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is, however long."""
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def show_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    words: Collection[str] | None = None,
    frame: bool = True,
) -> None:
    """Print a table, in a log as wide as it needs to be.

    Args:
        console: Where to.
        headings: Headings of the columns; without any text in them they are left out.
        rows: Cells, printed as they are.
        words: Headings of the columns of words, on the left; columns of numbers are on the right. Default: the first.
            On a narrow terminal, numbers break into lines only if no column of words after the first can.
        frame: Whether lines separate rows and columns.
    """
    from rich.console import Console  # here, so that --help does not wait for it
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(headings)) if frame else Table(box=None, pad_edge=False, show_header=any(headings))
    word = [place == 0 if words is None else heading in words for place, heading in enumerate(headings)]
    whole = any(word[1:])
    for place, heading in enumerate(headings):
        no_wrap = place == 0 or (whole and not word[place])
        table.add_column(heading, justify="left" if word[place] else "right", no_wrap=no_wrap, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if not console.is_interactive and not console.quiet:
        needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
        console = Console(file=console.file, width=max(console.width, needed))
    console.print(table)


def say_notes(console: Console, data: DataSet) -> None:
    """Print the notes of a data set, on images that were left out for example."""
    for note in data.notes:
        say(console, f"{data.name}: {note}.", style="yellow")


def data_line(data: DataSet) -> str:
    """Return the number of images of a data set, and whether they are decoded on use."""
    from kdiga.data import FileSet, MixedSet

    train = data.train
    more, own = "", train
    if isinstance(train, MixedSet):
        more, own = f" (with {len(train.extra):,} extra, {percent(train.share, 0)} of each batch)", train.original
    where = f", decoded when needed by {own.workers} further processes" if isinstance(own, FileSet) else ""
    return f"{len(train):,} training{more} and {len(data.test):,} test images{where}"


def link(path: Path) -> str:
    """Return a file's address, which terminals open on a click."""
    return path.resolve().as_uri()
