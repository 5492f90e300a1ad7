"""Accuracies in percent, their confidence intervals, and those of the difference of two accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from kdiga.errors import InputError


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, as all tables and sentences show it.

    >>> percent(0.9834), percent(0.5, 0)
    ('98.3 %', '50 %')
    """
    return f"{100 * share:.{digits}f} %"


def percent_interval(ends: Sequence[float], dash: str = "-") -> str:
    """Return an interval of shares in percent, as tables show it.

    >>> percent_interval((0.824, 0.951))
    '82.4 - 95.1'
    """
    return f"{100 * ends[0]:.1f} {dash} {100 * ends[1]:.1f}"


def at_most(difference: float, limit: float) -> bool:
    """Return whether a difference of accuracies is at most a limit; rounding in its last bits does not count."""
    return difference <= limit + 1e-9


def median_known(values: Sequence[float | None]) -> float | None:
    """Return the median of all values that are not None, zeros included; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def clopper_pearson(correct: int, examples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial confidence interval of an accuracy (Clopper and Pearson, 1934).

    Args:
        correct: Number of correct examples.
        examples: Number of examples, at least 1.
        confidence: Confidence level, in (0, 1).

    >>> [round(bound, 3) for bound in clopper_pearson(90, 100)]
    [0.824, 0.951]
    """
    from scipy.stats import beta  # here, because scipy.stats loads slowly

    tail = (1 - confidence) / 2
    low = 0.0 if correct == 0 else float(beta.ppf(tail, correct, examples - correct + 1))
    high = 1.0 if correct == examples else float(beta.ppf(1 - tail, correct + 1, examples - correct))
    return low, high


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the difference of two accuracies measured on the same examples, with its confidence interval.

    Two models with errors on the same examples differ less by chance than two with errors on different examples, so
    the two accuracies' intervals say too little about their difference. This is method 10 of Newcombe (1998,
    "Improved confidence intervals for the difference between binomial proportions based on paired data"): the
    Wilson limits of both accuracies, squared and added with the correlation of the two, corrected for continuity.

    Args:
        first: Whether the first model is correct, for each example.
        second: The same for the second model, in the same order.
        confidence: Confidence level, in (0, 1).

    Returns:
        Accuracy of the first model minus accuracy of the second, and the limits of its interval, all in [-1, 1].

    Raises:
        InputError: for no examples, or different numbers of examples.

    >>> [round(part, 3) for part in paired_difference([True] * 8 + [False] * 2, [True] * 5 + [False] * 5)]
    [0.3, -0.053, 0.567]
    """
    if len(first) != len(second) or not len(first):
        raise InputError(
            f"the models have results on {len(first)} and {len(second)} examples; their difference needs the "
            "same examples, at least one. Judge both on the same data with the same --examples."
        )
    n = len(first)
    both = sum(bool(a) and bool(b) for a, b in zip(first, second, strict=True))
    right, other = sum(map(bool, first)), sum(map(bool, second))
    table = both, right - both, other - both, n - right - other + both
    p, q = right / n, other / n
    (p_low, p_high), (q_low, q_high) = _wilson(right, n, confidence), _wilson(other, n, confidence)
    phi, difference = _correlation(*table), p - q
    low = difference - _added(p - p_low, q_high - q, phi)
    high = difference + _added(p_high - p, q - q_low, phi)
    return difference, max(-1.0, low), min(1.0, high)


def _wilson(correct: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the score interval of Wilson (1927)."""
    from scipy.stats import norm  # here, because scipy.stats loads slowly

    z = float(norm.ppf((1 + confidence) / 2))
    center = 2 * correct + z * z
    reach = z * math.sqrt(z * z + 4 * correct * (n - correct) / n)
    return max(0.0, (center - reach) / (2 * (n + z * z))), min(1.0, (center + reach) / (2 * (n + z * z)))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return phi of the 2 x 2 table, its numerator moved towards 0 by n / 2 where it is positive; 0 if undefined."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if not margins:
        return 0.0
    product = both * neither - first * second
    if product > 0:
        product = max(product - (both + first + second + neither) / 2, 0.0)
    return product / math.sqrt(margins)


def _added(own: float, others: float, phi: float) -> float:
    return math.sqrt(max(0.0, own * own - 2 * phi * own * others + others * others))
