"""Differences of two accuracies with their 95 % intervals, on the same images where possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdiga.errors import InputError
from kdiga.results.attack_names import attack_name
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.shared import Accuracy, ThreatRecord
from kdiga.statistics import paired_difference

AUTOATTACK = "autoattack"


@dataclass(frozen=True)
class AccuracyDifference:
    """The first of two accuracies less the second, with its 95 % interval."""

    value: float
    low: float
    high: float
    paired: bool  # measured on the same images, one by one
    assumed: bool  # a file does not name its images; the same number of one data set was taken for the same
    first: Accuracy
    second: Accuracy

    @property
    def sign(self) -> int:
        """1 or -1 if the interval is on one side of 0; 0 if it is undecided."""
        return int(self.low > 0) - int(self.high < 0)


def difference_of(first: Sequence[Accuracy], second: Sequence[Accuracy]) -> AccuracyDifference | None:
    """Return the difference of two models under one attack, paired where any of their measurements allow it.

    Measurements that cannot be paired are compared by adding the squares of both intervals (Zou and Donner, 2008),
    which is too wide rather than too narrow where the images were the same after all. Each model's measurements are in
    order of their number of images, most first.
    """
    for one in first:
        for other in second:
            if one.correct and other.correct and len(one.correct) == len(other.correct) and _same_images(one, other):
                value, low, high = paired_difference(one.correct, other.correct)
                assumed = one.conditions.data_fingerprint is None or other.conditions.data_fingerprint is None
                return AccuracyDifference(value, low, high, True, assumed, one, other)
    if not first or not second:
        return None
    one, other = first[0], second[0]
    value = one.value - other.value
    low = value - math.hypot(one.value - one.interval[0], other.interval[1] - other.value)
    high = value + math.hypot(one.interval[1] - one.value, other.value - other.interval[0])
    return AccuracyDifference(value, max(-1.0, low), min(1.0, high), False, False, one, other)


def _same_images(one: Accuracy, other: Accuracy) -> bool:
    prints = one.conditions.data_fingerprint, other.conditions.data_fingerprint
    return prints[0] == prints[1] if None not in prints else one.conditions.data == other.conditions.data


@dataclass(frozen=True)
class PairedDifference:
    """Two models under one attack; the difference is the first accuracy less the second."""

    attack: str
    examples: int  # number of examples
    first: float
    second: float
    difference: float
    interval: tuple[float, float]  # paired, 95 %
    only_first: int  # number of examples that only the first model gets right
    only_second: int

    def sentence(self, first: str, second: str) -> str:
        """Return what the interval allows to say about the two models, by their names."""
        low, high = self.interval
        points = f"{100 * abs(self.difference):.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
        if low > 0 or high < 0:
            better, other = (first, second) if low > 0 else (second, first)
            return f"{attack_name(self.attack)}: {better} is correct more often than {other}, by {points}."
        return (
            f"{attack_name(self.attack)}: {first} and {second} are not significantly different on "
            f"{self.examples} images; the difference is {points}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self) | {"interval": list(self.interval)}


def compare_evaluations(first: EvaluationResult, second: EvaluationResult) -> list[PairedDifference]:
    """Return the differences under the attacks that both evaluations have.

    Raises:
        InputError: if they have no attack in common, or differ in the examples, the threat model, the seed, or the
            version of an attack or of AutoAttack.
    """
    for name in ("data", "threat", "data_fingerprint", "seed"):
        values = getattr(first, name), getattr(second, name)
        if None not in values and values[0] != values[1]:
            raise _different(name, *values)
    outcomes = [{attack: right for attack, right in one.correct.items() if right} for one in (first, second)]
    shared = [attack for attack in outcomes[0] if attack in outcomes[1]]
    if not shared:
        raise InputError(
            f"the two evaluations have no attack in common ({', '.join(outcomes[0])}; {', '.join(outcomes[1])}); run "
            "`kdiga evaluate` with the same --attacks."
        )
    if AUTOATTACK in shared and first.version and second.version and first.version != second.version:
        raise _different("version of AutoAttack", first.version, second.version)
    counts = {attack: [len(one[attack]) for one in outcomes] for attack in shared}
    if unequal := next((attack for attack in shared if counts[attack][0] != counts[attack][1]), None):
        raise _different(f"number of images of {unequal}", *map(str, counts[unequal]))
    return [_difference(attack, *(list(map(bool, one[attack])) for one in outcomes)) for attack in shared]


def _different(name: str, first: object, second: object) -> InputError:
    return InputError(
        f"the two evaluations differ in {name} ({_shown(first)}, {_shown(second)}); only results on the same test "
        "images under the same threat model and attacks can be compared."
    )


def _difference(attack: str, first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    difference, low, high = paired_difference(first, second)
    n, pairs = len(first), list(zip(first, second, strict=True))
    only = [sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)]
    return PairedDifference(attack, n, sum(first) / n, sum(second) / n, difference, (low, high), *only)


def _shown(value: object) -> str:
    return str(value.to_dict()) if isinstance(value, ThreatRecord) else str(value)[:12]
