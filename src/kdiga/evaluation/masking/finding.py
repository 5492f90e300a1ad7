"""The finding of a check, and the one rule that turns counts of examples into verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "warning", "failed", "skipped"]

TOLERATED = 0.02  # share of examples on which attacks on a sound model may fail
LEVEL = 0.01  # probability of a false alarm of one check at the tolerated share


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        name: Name of the check.
        verdict: "failed": robust accuracy measured with gradients is not reliable; "warning": there is a reason to
            look closer; "skipped": the check was not possible.
        message: One sentence with the numbers.
        evidence: The numbers as plain data, finite or None.
    """

    name: str
    verdict: Verdict
    message: str
    evidence: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return vars(self) | {"evidence": dict(self.evidence)}


def excess(count: int, total: int) -> float:
    """Return the exact probability of at least ``count`` exceptions if each of ``total`` examples is one with 2 %.

    >>> round(excess(7, 100), 4)
    0.0041
    """
    from scipy.stats import binom  # here, because scipy.stats loads slowly

    return float(binom.sf(count - 1, total, TOLERATED))


def verdict_on(count: int, total: int) -> Verdict:
    """Return "failed" for significantly more than 2 % exceptions, "warning" for more than 2 % and more than one.

    >>> [verdict_on(count, 100) for count in (0, 2, 3, 6, 7)]
    ['passed', 'passed', 'warning', 'warning', 'failed']
    """
    if excess(count, total) < LEVEL:
        return "failed"
    return "warning" if count > max(1, TOLERATED * total) else "passed"


def one_sided(more: int, less: int) -> float:
    """Return the exact one-sided McNemar p-value.

    Args:
        more: Number of examples that differ in the tested direction.
        less: Number of examples that differ in the other direction.

    >>> one_sided(5, 0), one_sided(0, 0)
    (0.03125, 1.0)
    """
    from scipy.stats import binom  # here, because scipy.stats loads slowly

    return float(binom.sf(more - 1, more + less, 0.5)) if more else 1.0
