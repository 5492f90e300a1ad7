"""Whether a measure puts students in the order in which attacks put them: Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdiga.analysis.resampling import Interval, percentile_interval, resampled_rows
from kdiga.model_state import mix_seed

FEWEST_MODELS = 3
MOST_ORDERS = 40320  # 8 students: up to here every order is tried

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """How a measure ranks students against their robust accuracy.

    Args:
        bound: the measure's name.
        spearman: +1 where the measure that promises robustness orders the students as the attack does; None for
            fewer than 3 students, or where all are equal.
        interval_95: over other images, the students staying as they are. It does not cover other students.
        p_value: how often an order drawn by chance does at least as well: what so few students can show. One
            side, exact for up to 8 students.
        models: number of students.
    """

    bound: str
    spearman: float | None
    interval_95: Interval | None
    p_value: float | None
    models: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        interval = None if self.interval_95 is None else list(self.interval_95)
        return vars(self) | {"interval_95": interval}


def rank(
    promises: Mapping[str, Sequence[Sequence[float | None]]], right: Sequence[Sequence[bool]], seed: int
) -> list[Ranking]:
    """Return how each measure ranks students.

    Args:
        promises: by measure, for each student one value an example, larger where it promises more robustness; None
            where it is not defined, which leaves the example out of the mean.
        right: for each student, whether each example is still right under the attack.
        seed: of the resamples.
    """
    models = len(right)
    if models < FEWEST_MODELS:
        return [Ranking(name, None, None, None, models) for name in promises]
    truth = np.asarray(right, dtype=float)
    rows = resampled_rows(truth.shape[1], seed)
    found = list[Ranking]()
    for name, values in promises.items():
        table = np.asarray([[np.nan if value is None else value for value in row] for row in values], dtype=float)
        whole = np.arange(truth.shape[1])[None]
        promised, reached = _means(table, whole), _means(truth, whole)
        observed = float(spearman(promised, reached)[0])
        draws = spearman(_means(table, rows), _means(truth, rows)) if truth.shape[1] > 1 else np.asarray([np.nan])
        known = bool(np.isfinite(observed))
        found.append(
            Ranking(
                name,
                observed if known else None,
                percentile_interval(draws) if known else None,
                _chance(promised[0], reached[0], observed, seed) if known else None,
                models,
            )
        )
    return found


def spearman(a: Values, b: Values) -> Values:
    """Return the rank correlation of each row of ``a`` with that of ``b``, ties by their mean rank.

    NaN where a row is constant or holds a NaN.

    Args:
        a: (rows, models).
        b: (rows, models).

    >>> spearman(np.array([[1.0, 2.0, 5.0]]), np.array([[3.0, 4.0, 9.0]])).round(6).tolist()
    [1.0]
    """
    from scipy.stats import rankdata

    ranks = [np.asarray(rankdata(values, axis=1, nan_policy="propagate"), dtype=float) for values in (a, b)]
    first, second = (values - values.mean(1, keepdims=True) for values in ranks)
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    product = (first * second).sum(1)
    return np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _means(table: Values, rows: NDArray[np.int64]) -> Values:
    """Return the mean of each model over the defined examples of each resample, (resamples, models)."""
    defined = np.isfinite(table)
    filled = np.where(defined, table, 0.0)
    totals = np.stack([values[rows].sum(1) for values in filled], axis=1)
    counts = np.stack([values[rows].sum(1) for values in defined], axis=1).astype(float)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def _chance(promised: Values, reached: Values, observed: float, seed: int) -> float:
    models = len(promised)
    exact = factorial(models) <= MOST_ORDERS
    if exact:
        orders = np.asarray(list(permutations(range(models))))
    else:
        generator = np.random.default_rng(mix_seed(seed, models))
        orders = np.stack([generator.permutation(models) for _ in range(MOST_ORDERS)])
    as_good = int((spearman(promised[orders], np.broadcast_to(reached, orders.shape)) >= observed - 1e-9).sum())
    return as_good / len(orders) if exact else (as_good + 1) / (len(orders) + 1)
