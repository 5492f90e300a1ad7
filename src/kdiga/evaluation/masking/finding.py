"""What a check came to: a verdict, a sentence, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        name: of the check.
        verdict: "failed" where the robust accuracy measured with gradients is not to be believed, "warning" where
            there is reason to look, "skipped" where the check could not be made.
        message: one sentence with the numbers.
        evidence: plain data: the numbers themselves, finite or None.
    """

    name: str
    verdict: Verdict
    message: str
    evidence: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "message": self.message,
            "evidence": dict(self.evidence),
        }
