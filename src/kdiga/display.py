"""How results show themselves: a few lines in a shell, a small table in a notebook, a plot, a pandas table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from kdiga.errors import InputError
from kdiga.statistics import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

LINES = 4  # rows in a shell, below the title
ROWS = 20  # rows in a notebook
SHARES = {"accuracy", "low", "high", "clean", "robust", "kept", "first", "second", "difference", "certified"}  # columns


class Summary(NamedTuple):
    """What a result shows.

    Args:
        title: Title in one line.
        rows: Rows of the pandas table: plain values by heading, the label of a row first.
        shown: Rows in a shell or notebook; None for all.
        sentences: Sentences below the table in a notebook.
        bars: Heading of the values that are drawn as bars, with intervals from "low" to "high" where they are known.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, Any]] | None = None
    sentences: Sequence[str] = ()
    bars: str = "accuracy"


class Displayed:
    """Base of results, which say in ``_summary`` what they show."""

    def _summary(self) -> Summary:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the title and a few rows, at most 5 lines."""
        summary = self._summary()
        rows = summary.rows if summary.shown is None else summary.shown
        lines = [_line(row) for row in (rows if len(rows) <= LINES else rows[: LINES - 1])]
        more = [f"and {len(rows) - len(lines)} more: to_pandas()"] if len(lines) < len(rows) else []
        return "\n  ".join([f"{type(self).__name__}: {summary.title}", *lines, *more])

    def __str__(self) -> str:
        """Return the same as ``repr``."""
        return repr(self)

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        summary = self._summary()
        rows = list(summary.rows if summary.shown is None else summary.shown)[:ROWS]
        headings = _headings(rows)
        head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(name, row.get(name)))}</td>" for name in headings) + "</tr>"
            for row in rows
        )
        below = "".join(f"<div>{escape(sentence)}</div>" for sentence in summary.sentences)
        return f"<div><b>{escape(summary.title)}</b></div><table><tr>{head}</tr>{body}</table>{below}"

    def to_pandas(self) -> DataFrame:
        """Return a table of plain numbers, one row per attack, epoch or model.

        Raises:
            InputError: If pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise InputError("to_pandas needs pandas, which is not installed: pip install pandas.") from None
        rows = self._summary().rows
        return DataFrame(rows, columns=_headings(rows))

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the result with matplotlib, and return the axes; None takes new ones."""
        from matplotlib import pyplot

        axes = axes or pyplot.subplots()[1]
        self._draw(axes)
        return axes

    def _draw(self, axes: Axes) -> None:
        """Draw a bar per row."""
        summary = self._summary()
        rows = [row for row in summary.rows if row.get(summary.bars) is not None]
        labels = [str(next(iter(row.values()))) for row in rows]
        values = [row[summary.bars] for row in rows]
        errors = None
        if rows and all(row.get("low") is not None for row in rows):
            ends = list(zip(values, rows, strict=True))
            errors = [[value - row["low"] for value, row in ends], [row["high"] - value for value, row in ends]]
        axes.barh(labels, values, xerr=errors, color="#4477aa", ecolor="#555555")
        axes.invert_yaxis()
        axes.set(xlabel=summary.bars, title=summary.title)


def _headings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _line(row: Mapping[str, Any]) -> str:
    label, *rest = row.items()
    parts = (f"{name} {_cell(name, value)}" for name, value in rest if value is not None)
    return f"{_cell(*label)}: {', '.join(parts)}"


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return percent(value) if name in SHARES else f"{value:.4g}"
