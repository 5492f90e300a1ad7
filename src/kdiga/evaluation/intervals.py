"""How far a measured accuracy may be from the true one."""

from __future__ import annotations

from scipy.stats import beta


def clopper_pearson(correct: int, examples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial confidence interval of an accuracy (Clopper and Pearson, 1934).

    Args:
        correct: how many of the examples were right.
        examples: how many there were, at least 1.
        confidence: in (0, 1).

    >>> [round(bound, 3) for bound in clopper_pearson(90, 100)]
    [0.824, 0.951]
    """
    tail = (1 - confidence) / 2
    low = 0.0 if correct == 0 else float(beta.ppf(tail, correct, examples - correct + 1))
    high = 1.0 if correct == examples else float(beta.ppf(1 - tail, correct + 1, examples - correct))
    return low, high
