"""Damaged and hostile files, read by every parser: see docs/hostile-files.md."""

from tests.fuzz import data, results, texts, weights  # noqa: F401 (they register targets)
from tests.fuzz.target import TARGETS, Bench, Target

__all__ = ["TARGETS", "Bench", "Target"]
