"""Rank correlations between a measure of students and their robustness, and bootstrap intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from kdiga.model_state import mix_seed

FEWEST_MODELS = 3
MOST_ORDERS = 40320  # all orders of 8 students; above that, orders are sampled
RESAMPLES = 2000
FEWEST_EXAMPLES = 2  # one example has no spread

ConfidenceInterval = tuple[float, float]
Values = NDArray[np.float64]


def resampled_rows(examples: int, seed: int) -> NDArray[np.int64]:
    """Return the examples of each bootstrap resample (Efron, 1979), (resamples, examples)."""
    return np.random.default_rng(mix_seed(seed, examples)).integers(0, examples, (RESAMPLES, examples))


def percentile_interval(draws: Values) -> ConfidenceInterval | None:
    """Return the middle 95 % of the finite draws; None if fewer than half are finite."""
    defined = draws[np.isfinite(draws)]
    if len(defined) * 2 < len(draws) or not len(defined):
        return None
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> ConfidenceInterval | None:
    """Return the 95 % interval of a mean over examples; None for fewer than 2.

    >>> mean_interval([1.0, 1.0, 1.0], 0)
    (1.0, 1.0)
    """
    return _interval([values], lambda means: means[0], seed)


def ratio_interval(above: Sequence[float], below: Sequence[float], seed: int) -> ConfidenceInterval | None:
    """Return the 95 % interval of a ratio of two means over the same examples; None if it is undefined.

    The resamples are paired, because an example that is hard for one is often hard for the other.
    """

    def ratio(means: Sequence[Values]) -> Values:
        return np.divide(means[0], means[1], out=np.full_like(means[0], np.nan), where=means[1] > 0)

    return _interval([above, below], ratio, seed)


def _interval(
    columns: Sequence[Sequence[float]], statistic: Callable[[Sequence[Values]], Values], seed: int
) -> ConfidenceInterval | None:
    if len(columns[0]) < FEWEST_EXAMPLES:
        return None
    rows = resampled_rows(len(columns[0]), seed)
    return percentile_interval(statistic([np.asarray(values, dtype=float)[rows].mean(1) for values in columns]))


@dataclass(frozen=True)
class Ranking:
    """Agreement of the order of students by a measure with their order by robust accuracy."""

    bound: str  # name of the measure
    # Rank correlation, +1 for the same order; None for fewer than 3 students, or if all are equal.
    spearman: float | None
    # Interval over images, for these students. It does not cover other students.
    interval_95: ConfidenceInterval | None
    p_value: float | None  # share of random orders that agree at least as well; one-sided, exact for up to 8 students
    models: int  # number of students

    def to_dict(self) -> dict[str, Any]:
        """Return all results as plain data."""
        return dict(vars(self))


def rank(
    measures: Mapping[str, Sequence[Sequence[float | None]]], right: Sequence[Sequence[bool]], seed: int
) -> list[Ranking]:
    """Return how each measure ranks students.

    ``measures`` are values by measure, student and example, larger for more expected robustness; the mean over examples
    leaves out None. ``right`` is whether each example is classified correctly under the attack, by student.
    """
    models = len(right)
    if models < FEWEST_MODELS:
        return [Ranking(name, None, None, None, models) for name in measures]
    truth = np.asarray(right, dtype=float)
    rows = resampled_rows(truth.shape[1], seed)
    found = list[Ranking]()
    for name, values in measures.items():
        table = np.asarray([[np.nan if value is None else value for value in row] for row in values], dtype=float)
        every = np.arange(truth.shape[1])[None]
        measured, robust = _means(table, every), _means(truth, every)
        observed = float(spearman(measured, robust)[0])
        draws = spearman(_means(table, rows), _means(truth, rows)) if truth.shape[1] > 1 else np.asarray([np.nan])
        known = bool(np.isfinite(observed))
        found.append(
            Ranking(
                name,
                observed if known else None,
                percentile_interval(draws) if known else None,
                _p_value(measured[0], robust[0], observed, seed) if known else None,
                models,
            )
        )
    return found


def spearman(a: Values, b: Values) -> Values:
    """Return Spearman's rank correlation of each row of ``a`` and ``b``, both (rows, models); ties get the mean rank.

    It is NaN for a row that is constant or contains a NaN.

    >>> spearman(np.array([[1.0, 2.0, 5.0]]), np.array([[3.0, 4.0, 9.0]])).round(6).tolist()
    [1.0]
    """
    ranks = [np.asarray(rankdata(values, axis=1, nan_policy="propagate"), dtype=float) for values in (a, b)]
    first, second = (values - values.mean(1, keepdims=True) for values in ranks)
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    product = (first * second).sum(1)
    return np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _means(table: Values, rows: NDArray[np.int64]) -> Values:
    """Return the mean over the defined examples of each resample, (resamples, models)."""
    defined = np.isfinite(table)
    filled = np.where(defined, table, 0.0)
    totals = np.stack([values[rows].sum(1) for values in filled], axis=1)
    counts = np.stack([values[rows].sum(1) for values in defined], axis=1).astype(float)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def _p_value(measured: Values, robust: Values, observed: float, seed: int) -> float:
    models = len(measured)
    exact = factorial(models) <= MOST_ORDERS
    if exact:
        orders = np.asarray(list(permutations(range(models))))
    else:
        generator = np.random.default_rng(mix_seed(seed, models))
        orders = np.stack([generator.permutation(models) for _ in range(MOST_ORDERS)])
    as_good = int((spearman(measured[orders], np.broadcast_to(robust, orders.shape)) >= observed - 1e-9).sum())
    return as_good / len(orders) if exact else (as_good + 1) / (len(orders) + 1)
