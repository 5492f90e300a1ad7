"""Text and tables on a terminal, and in a log as wide as they need to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from kdiga.data import DataSet


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is, however long."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table, in a log as wide as it needs to be."""
    if not console.is_interactive and not console.quiet:
        needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
        console = Console(file=console.file, width=max(console.width, needed))
    console.print(table)


def model_line(content: Mapping[str, Any], which: str = "") -> str:
    """Return which model a result is about, and on what, from the content of its file.

    Args:
        content: of the file.
        which: said before the number of test images.
    """
    threat = content["threat"]
    return (
        f"{content['model']}: {content['parameters']:,} parameters, {threat['norm']} eps {threat['eps']:.4g}, "
        f"{which}{content['examples']} test images of {content['data']}"
    )


def tell_notes(console: Console, data: DataSet) -> None:
    """Say what there is to tell of a data set: images that were left out, for example."""
    for note in data.notes:
        say(console, f"{data.name}: {note}.", style="yellow")


def described(data: DataSet) -> str:
    """Return how many images a data set has, and where they are while it is used."""
    from kdiga.data import FileSet, MixedSet

    train = data.train
    more = f" (with {len(train.extra):,} extra, {train.share:.0%} of each batch)" if isinstance(train, MixedSet) else ""
    own = train.original if isinstance(train, MixedSet) else train
    where = f", decoded when needed by {own.workers} further processes" if isinstance(own, FileSet) else ""
    return f"{len(train):,} training{more} and {len(data.test):,} test images{where}"


def duration(seconds: float) -> str:
    """Return a time in the unit that says most."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
