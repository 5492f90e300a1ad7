"""How numbers, lists of names, machines and tables are written, in sentences, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdiga.io.markdown import code, safe
from kdiga.results.studies import RunSummary
from kdiga.statistics import percent, percent_interval

NOTHING = "-"


@dataclass(frozen=True)
class MeanAndRange:
    """Mean and sample standard deviation of some numbers."""

    mean: float
    deviation: float | None  # with n - 1 in the denominator; None for a single number
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanAndRange | None:
        """Return mean and deviation of some numbers; None for none."""
        if not values:
            return None
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def percent(self) -> str:
        """Return it as text in percent."""
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(map(safe, cells))} |" for cells in (headings, *rows)]
    return [lines[0], f"|{'---|' * len(headings)}", *lines[1:]]


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue()


def markdown_lines(command: str, lines: Sequence[str]) -> list[str]:
    """Return lines about a result as Markdown: its command as code, the rest as text."""
    quoted = f"`{command}`"
    return [
        code(command) + safe(line.removeprefix(quoted)) if line.startswith(quoted) else safe(line) for line in lines
    ]


def when_and_where(runs: Iterable[RunSummary]) -> str:
    """Return when and on which machines runs were made, in a sentence."""
    runs = list(runs)
    dates = sorted(run.date[:10] for run in runs if run.date)
    machines = dict.fromkeys(hardware_text(run.hardware) for run in runs if run.hardware)
    when = NOTHING if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{when}; {'; '.join(machines) or NOTHING}."


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """Return a machine as a run or a result recorded it."""
    count = hardware.get("threads")
    threads = f", {count} thread{'s' * (count != 1)}" if count else ""
    device = hardware.get("accelerator") or "no GPU"
    return f"{hardware.get('processor')}, {hardware.get('cores')} cores{threads}, {device}"


def percent_or_dash(value: float | None) -> str:
    """Return a share in percent; a dash for None."""
    return "–" if value is None else percent(value)


def span(ends: Sequence[float] | None) -> str:
    """Return an interval of shares in percent; nothing for None."""
    return "" if ends is None else percent_interval(ends, "–")


def signed(value: float) -> str:
    """Return a difference of shares in points, with a sign that is as long as a digit.

    >>> signed(-0.123)
    '−12.3'
    """
    rounded = round(100 * value, 1)
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else '±'}{abs(rounded):.1f}"


def listed(values: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}" if values else ""


def some_names(values: Sequence[str], most: int = 4) -> str:
    """Return the first names of a list, and how many more there are."""
    return listed(values if len(values) <= most else [*values[:most], f"{len(values) - most} more"])
