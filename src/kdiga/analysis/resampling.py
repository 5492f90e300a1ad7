"""What other images might have given: bootstrap intervals (Efron, 1979), percentiles of 2,000 resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kdiga.model_state import mix_seed

RESAMPLES = 2000
FEWEST = 2  # of one example there is no spread to learn from

Interval = tuple[float, float]
Values = NDArray[np.float64]


def resampled_rows(examples: int, seed: int) -> NDArray[np.int64]:
    """Return which examples each resample holds, (resamples, examples)."""
    return np.random.default_rng(mix_seed(seed, examples)).integers(0, examples, (RESAMPLES, examples))


def percentile_interval(draws: Values) -> Interval | None:
    """Return the middle 95 % of the draws that are defined; None if fewer than half are."""
    defined = draws[np.isfinite(draws)]
    if len(defined) * 2 < len(draws) or not len(defined):
        return None
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> Interval | None:
    """Return the 95 % interval of a mean over examples; None for fewer than 2.

    >>> mean_interval([1.0, 1.0, 1.0], 0)
    (1.0, 1.0)
    """
    return _interval([values], lambda means: means[0], seed)


def ratio_interval(above: Sequence[float], below: Sequence[float], seed: int) -> Interval | None:
    """Return the 95 % interval of a ratio of two means over the same examples; None where it is not defined.

    Args:
        above: one value an example.
        below: one value an example, of the same examples: what happens to be hard is hard for both.
        seed: of the resamples.
    """

    def ratio(means: Sequence[Values]) -> Values:
        return np.divide(means[0], means[1], out=np.full_like(means[0], np.nan), where=means[1] > 0)

    return _interval([above, below], ratio, seed)


def _interval(
    columns: Sequence[Sequence[float]], statistic: Callable[[Sequence[Values]], Values], seed: int
) -> Interval | None:
    if len(columns[0]) < FEWEST:
        return None
    rows = resampled_rows(len(columns[0]), seed)
    return percentile_interval(statistic([np.asarray(values, dtype=float)[rows].mean(1) for values in columns]))
