"""The ranges that options of the same name share, whatever the method."""

from __future__ import annotations

import math
from dataclasses import fields

from kdiga.errors import InputError


class Checked:
    """A base for methods: their numbers are checked when one is configured, not when training meets them.

    Raises:
        InputError: for a weight that is negative or not finite, a temperature of 0 or less, fewer than
            1 step, a step size of 0 or less, or a share of the training or the batch out of range.
    """

    def __post_init__(self) -> None:
        """Check every option by its name."""
        for option in fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, option.name)
            if value is not None:
                _check(option.name, value)


def _check(name: str, value: float) -> None:
    accepted = None
    if name.endswith("_weight"):
        accepted = None if value >= 0 and math.isfinite(value) else "a finite number of at least 0"
    elif name.endswith("temperature") or name == "step_size":
        accepted = None if value > 0 and math.isfinite(value) else "a number above 0"
    elif name in ("steps", "align_every"):
        accepted = None if value >= 1 and value == int(value) else "a whole number of at least 1"
    elif name == "align_share":
        accepted = None if 0 < value <= 1 else "a share of the batch, in (0, 1]"
    elif name in ("ramp", "begin"):
        accepted = None if 0 <= value <= 1 else "a share of the training, in [0, 1]"
    if accepted is not None:
        raise InputError(f"{name} was {value!r}; it must be {accepted}.")
