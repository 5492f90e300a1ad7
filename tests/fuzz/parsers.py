"""Every parser that is fuzzed."""

from tests.fuzz import data, programs, results, states, texts, weights  # noqa: F401 (they register targets)
from tests.fuzz.target import TARGETS

__all__ = ["TARGETS"]
"""By name."""
