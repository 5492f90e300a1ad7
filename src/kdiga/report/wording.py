"""How numbers and lists of names are written in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence


def percent(value: float | None) -> str:
    """Return a share in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def span(ends: Sequence[float] | None) -> str:
    """Return an interval of shares in percent; nothing for None."""
    return "" if ends is None else f"{100 * ends[0]:.1f} – {100 * ends[1]:.1f}"


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
