"""The rule that turns counts into verdicts, against sums written out."""

from __future__ import annotations

from math import comb

import pytest
from scipy.stats import binomtest

from kdiga.evaluation.masking.finding import LEVEL, TOLERATED, excess, one_sided, verdict_on


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 10), (7, 100), (100, 100)])
def test_excess_is_the_binomial_tail(count, total):
    tail = sum(comb(total, k) * 0.02**k * 0.98 ** (total - k) for k in range(count, total + 1))
    assert excess(count, total) == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize(("more", "less"), [(0, 5), (5, 0), (7, 3), (20, 4)])
def test_one_sided_is_the_exact_sign_test(more, less):
    expected = binomtest(more, more + less, 0.5, alternative="greater").pvalue
    assert one_sided(more, less) == pytest.approx(expected)


def test_a_failure_is_both_rare_and_above_what_is_tolerated():
    for total in (20, 50, 100, 1000):
        failures = [count for count in range(total + 1) if verdict_on(count, total) == "failed"]
        assert excess(failures[0], total) < LEVEL <= excess(failures[0] - 1, total)
        assert failures[0] > TOLERATED * total


def test_one_example_is_never_a_finding():
    assert [verdict_on(1, total) for total in (20, 40, 100)] == ["passed"] * 3
