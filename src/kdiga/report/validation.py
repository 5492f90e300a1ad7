"""Plain data from a file, taken at its word only where it has the form and the range it should have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 1e18  # nothing that is measured here comes near, and figures of more overflow


class DamagedError(ValueError):
    """A result file does not hold what its kind should; the message says what."""


def record(content: Any, what: str) -> Mapping[str, Any]:
    """Return an object's fields.

    Raises:
        DamagedError: if it is no object.
    """
    if not isinstance(content, Mapping):
        raise DamagedError(f"{what} is not an object")
    return content


def listing(content: Any, what: str) -> Sequence[Any]:
    """Return a list.

    Raises:
        DamagedError: if it is none.
    """
    if not isinstance(content, list):
        raise DamagedError(f"{what} is not a list")
    return content


def number(value: Any, what: str) -> float:
    """Return a finite number.

    Raises:
        DamagedError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
        raise DamagedError(f"{what} is {value!r:.40}, not a finite number")
    return float(value)


def proportion(value: Any, what: str) -> float:
    """Return a number in [0, 1].

    Raises:
        DamagedError: if it is none.
    """
    found = number(value, what)
    if not 0 <= found <= 1:
        raise DamagedError(f"{what} is {found:g}, not in [0, 1]")
    return found


def numbers(values: Any, what: str) -> tuple[float, ...]:
    """Return a list of finite numbers.

    Raises:
        DamagedError: if it is none.
    """
    return tuple(number(value, what) for value in listing(values, what))


def shares(values: Any, what: str) -> tuple[float, ...]:
    """Return a list of numbers in [0, 1].

    Raises:
        DamagedError: if it is none.
    """
    return tuple(proportion(value, what) for value in listing(values, what))


def outcomes(values: Any, what: str) -> tuple[bool, ...]:
    """Return a list of outcomes, an image each.

    Raises:
        DamagedError: if it is none, or one is neither 0 nor 1.
    """
    found = numbers(values, what)
    strange = [one for one in found if one not in (0, 1)]
    if strange:
        raise DamagedError(f"{what} has the outcome {strange[0]:g}, neither 0 nor 1")
    return tuple(map(bool, found))


def bounds(value: Any, what: str) -> tuple[float, float]:
    """Return the two ends of an interval.

    Raises:
        DamagedError: if there are not two, in order.
    """
    ends = numbers(value, what)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise DamagedError(f"{what} is {list(ends)!r:.40}, not an interval")
    return ends[0], ends[1]


def around(value: float, ends: Any, what: str) -> tuple[float, float]:
    """Return the interval of a value.

    Raises:
        DamagedError: if it is none, or the value is outside.
    """
    low, high = bounds(ends, what)
    if not low - 1e-6 <= value <= high + 1e-6:
        raise DamagedError(f"{what} from {low:g} to {high:g} leaves out {value:g}, whose it is")
    return low, high


def text(value: Any, default: str = "") -> str:
    """Return a text; ``default`` for anything else."""
    return value if isinstance(value, str) else default


def whole_number(value: Any) -> int | None:
    """Return a whole number of at least 0; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST else None


def fields(value: Any) -> Mapping[str, Any]:
    """Return an object's fields; none for anything else."""
    return value if isinstance(value, Mapping) else {}
