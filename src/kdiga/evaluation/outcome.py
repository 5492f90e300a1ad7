"""What one stage of an attack came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class StageOutcome(NamedTuple):
    """Which examples stood.

    Args:
        right: bool (batch,), on the CPU: still classified correctly.
        notes: what the attack found suspicious, in words.
    """

    right: Tensor
    notes: Sequence[str] = ()
