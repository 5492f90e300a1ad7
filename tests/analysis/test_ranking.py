"""Rank correlations of constructed students."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from kdiga.analysis.ranking import mean_interval, rank, ratio_interval, spearman

EXAMPLES = 40


def students(*shares):
    """Right on the first so many of 40 examples."""
    return [[row < share * EXAMPLES for row in range(EXAMPLES)] for share in shares]


def constant(*values):
    return [[value] * EXAMPLES for value in values]


def test_spearman_is_scipys_with_ties():
    generator = np.random.default_rng(3)
    a, b = generator.integers(0, 5, (20, 7)).astype(float), generator.integers(0, 5, (20, 7)).astype(float)
    expected = [spearmanr(first, second).statistic for first, second in zip(a, b, strict=True)]
    assert spearman(a, b) == pytest.approx(expected)


def test_an_order_kept_is_one_and_one_reversed_is_minus_one():
    right = students(0.1, 0.4, 0.7, 0.9)
    same, reverse = rank({"same": constant(1, 2, 3, 9), "reverse": constant(9, 3, 2, 1)}, right, 0)
    assert (same.spearman, same.interval_95, same.models) == (pytest.approx(1), pytest.approx((1, 1)), 4)
    assert same.p_value == pytest.approx(1 / 24)
    assert (reverse.spearman, reverse.p_value) == (pytest.approx(-1), 1.0)


def test_nearly_equal_students_have_a_wide_interval():
    generator = np.random.default_rng(5)
    right = [row.tolist() for row in generator.random((4, EXAMPLES)) < 0.5]
    (found,) = rank({"order": constant(1, 2, 3, 4)}, right, 0)
    low, high = found.interval_95
    assert low < 0 < high or high - low > 0.5
    assert low <= found.spearman <= high


def test_many_students_are_held_against_drawn_orders():
    shares = [place / 10 for place in range(10)]
    (found,) = rank({"order": constant(*shares)}, students(*shares), 0)
    assert found.p_value < 0.001


def test_fewer_than_three_students_have_no_rank_correlation():
    (found,) = rank({"order": constant(1, 2)}, students(0.1, 0.9), 0)
    assert (found.spearman, found.interval_95, found.p_value, found.models) == (None, None, None, 2)


def test_equal_students_have_no_rank_correlation():
    (found,) = rank({"order": constant(1, 1, 1)}, students(0.1, 0.5, 0.9), 0)
    assert (found.spearman, found.interval_95) == (None, None)


def test_undefined_values_are_left_out_of_the_mean():
    values = [[None, *[value] * (EXAMPLES - 1)] for value in (1.0, 2.0, 3.0)]
    (found,) = rank({"order": values}, students(0.1, 0.5, 0.9), 0)
    assert found.spearman == pytest.approx(1)
    (found,) = rank({"order": [[None] * EXAMPLES, *values[1:]]}, students(0.1, 0.5, 0.9), 0)
    assert found.spearman is None


def test_intervals_cover_the_mean_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        low, high = mean_interval(generator.normal(2.0, 1.0, 80).tolist(), seed)
        covered += low <= 2.0 <= high
    assert 51 <= covered <= 60
    assert mean_interval([1.0], 0) is None


def test_a_ratio_of_means_pairs_its_examples():
    values = np.random.default_rng(1).exponential(1.0, 50)
    assert ratio_interval((2 * values).tolist(), values.tolist(), 0) == pytest.approx((2, 2))
    assert ratio_interval([1.0, 1.0], [0.0, 0.0], 0) is None
