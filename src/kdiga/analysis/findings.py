"""What a check found: named, with a verdict, a sentence and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One check's outcome.

    Args:
        name: of the check.
        verdict: "passed", "warning" or "failed".
        message: what was found and what to do, one line.
        evidence: the numbers it rests on.
    """

    name: str
    verdict: Verdict
    message: str
    evidence: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"name": self.name, "verdict": self.verdict, "message": self.message, "evidence": dict(self.evidence)}
