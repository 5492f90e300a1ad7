"""When a count is a finding and when it may be chance: the one rule of all checks that count examples."""

from __future__ import annotations

from scipy.stats import binom

from kdiga.evaluation.masking.finding import Verdict

TOLERATED = 0.02  # share of examples on which the attacks of a sound model may come out the wrong way round
LEVEL = 0.01  # chance of a false alarm of one check, at the tolerated share


def excess(count: int, total: int) -> float:
    """Return the chance of at least so many exceptions if each example were one with probability 2 % (exact).

    Args:
        count: exceptions.
        total: examples, at least 1.

    >>> round(excess(7, 100), 4)
    0.0041
    """
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
    """Return the exact one-sided McNemar p: the chance of so uneven a split if both ways were as likely.

    Args:
        more: examples that differ in the direction tested.
        less: examples that differ in the other.

    >>> one_sided(5, 0), one_sided(0, 0)
    (0.03125, 1.0)
    """
    return float(binom.sf(more - 1, more + less, 0.5)) if more else 1.0
