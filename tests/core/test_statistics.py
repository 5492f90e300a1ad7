"""Intervals against scipy, known limits and their own coverage, counted exactly."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from kdiga.errors import InputError
from kdiga.statistics import clopper_pearson, paired_difference

N = 12


def outcomes(both, first, second, neither):
    return [True] * (both + first) + [False] * (second + neither), (
        [True] * both + [False] * first + [True] * second + [False] * neither
    )


# Frequencies of the kind that Newcombe (1998) tabulates, and the limits of method 10 to four places.
@pytest.mark.parametrize(
    ("table", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((0, 30, 0, 0), 0.8395, 1.0), ((54, 0, 0, 0), -0.0664, 0.0664)],
)
def test_paired_difference_has_known_limits(table, low, high):
    difference, *limits = paired_difference(*outcomes(*table))

    assert difference == pytest.approx((table[1] - table[2]) / sum(table))
    assert limits == pytest.approx([low, high], abs=5e-5)


def tables():
    return [(a, b, c, N - a - b - c) for a in range(N + 1) for b in range(N + 1 - a) for c in range(N + 1 - a - b)]


def test_paired_difference_covers_the_true_difference():
    """For each truth, the probability of every table whose interval holds it, summed: no chance in this test."""
    found = np.array([paired_difference(*outcomes(*table)) for table in tables()])
    counts = np.array(tables())
    truths = [
        (both, first, second, 1 - both - first - second)
        for both in (0.1, 0.3, 0.5, 0.8)
        for first in (0.02, 0.1, 0.2, 0.4)
        for second in (0.02, 0.1, 0.2)
        if both + first + second < 0.99
    ]
    coverage = []
    for truth in truths:
        chances = multinomial.pmf(counts, N, truth)
        difference = truth[1] - truth[2]
        coverage.append(chances[(found[:, 1] <= difference) & (difference <= found[:, 2])].sum())

    assert len(truths) > 30
    assert 0.94 < np.mean(coverage) < 0.985  # nominal is 0.95
    assert min(coverage) > 0.90


def test_paired_difference_is_narrower_than_two_intervals_side_by_side():
    n = 1000
    first, second = outcomes(500, 60, 20, n - 580)

    difference, low, high = paired_difference(first, second)

    assert difference == pytest.approx(0.04)
    assert 0 < low < difference < high
    separate = [clopper_pearson(sum(right), n) for right in (first, second)]
    assert separate[0][0] < separate[1][1]  # they overlap: looked at one by one, nothing could be said
    # With many examples it nears Wald's interval for pairs.
    error = 1.959964 * math.sqrt((60 + 20) / n - difference**2) / math.sqrt(n)
    assert [low, high] == pytest.approx([difference - error, difference + error], abs=0.002)


def test_paired_difference_changes_sign_with_the_order():
    first, second = outcomes(20, 7, 3, 10)

    difference, low, high = paired_difference(first, second)

    assert paired_difference(second, first) == pytest.approx((-difference, -high, -low))
    assert paired_difference(first, first)[0] == 0


def test_paired_difference_widens_with_confidence():
    pair = outcomes(20, 7, 3, 10)

    widths = [high - low for _, low, high in (paired_difference(*pair, confidence=c) for c in (0.8, 0.95, 0.99))]

    assert widths == sorted(widths)
    assert widths[0] < 0.7 * widths[2]


def test_paired_difference_needs_the_same_examples():
    with pytest.raises(InputError, match="3 and 2 examples"):
        paired_difference([True] * 3, [True] * 2)
    with pytest.raises(InputError, match="at least one"):
        paired_difference([], [])


@pytest.mark.parametrize(("correct", "n"), [(0, 20), (7, 20), (20, 20)])
def test_clopper_pearson_is_the_exact_interval(correct, n):
    expected = binomtest(correct, n).proportion_ci(method="exact")

    assert clopper_pearson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)
