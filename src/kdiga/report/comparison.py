"""Two evaluations of the same test images, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdiga.errors import InputError
from kdiga.results.attack_names import attack_name
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.shared import ThreatRecord
from kdiga.statistics import paired_difference


@dataclass(frozen=True)
class Difference:
    """Two models under one attack.

    Args:
        attack: Name of the attack.
        examples: Number of examples.
        first: Accuracy of the first model, in [0, 1].
        second: Accuracy of the second model, in [0, 1].
        difference: First accuracy less the second.
        interval: Paired 95 % interval of the difference.
        only_first: Number of examples that only the first model gets right.
        only_second: Number of examples that only the second model gets right.
    """

    attack: str
    examples: int
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_second: int

    def sentence(self) -> str:
        """Return what the interval allows to say."""
        low, high = self.interval
        points = f"{100 * abs(self.difference):.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
        if low > 0 or high < 0:
            return (
                f"{attack_name(self.attack)}: the {'first' if low > 0 else 'second'} is right more often, by {points}."
            )
        return f"{attack_name(self.attack)}: undecided on {self.examples} images; the difference is {points}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self) | {"interval": list(self.interval)}


def compare_evaluations(first: EvaluationResult, second: EvaluationResult) -> list[Difference]:
    """Return the differences under the attacks that both evaluations have.

    Args:
        first: Evaluation with outcomes of each image.
        second: Another one, on the same data under the same threat model.

    Raises:
        InputError: if they have no attack in common, or were not measured on the same examples.
    """
    for name in ("data", "threat", "data_fingerprint"):
        values = getattr(first, name), getattr(second, name)
        if None not in values and values[0] != values[1]:
            raise InputError(
                f"the two evaluations differ in {name} ({_shown(values[0])}, {_shown(values[1])}); only results on the "
                "same test images under the same threat model can be compared."
            )
    outcomes = [{attack: right for attack, right in one.correct.items() if right} for one in (first, second)]
    shared = [attack for attack in outcomes[0] if attack in outcomes[1]]
    if not shared:
        raise InputError(
            f"the two evaluations have no attack in common ({', '.join(outcomes[0])}; {', '.join(outcomes[1])}); run "
            "`kdiga evaluate` with the same --attacks."
        )
    return [_difference(attack, *(list(map(bool, one[attack])) for one in outcomes)) for attack in shared]


def _difference(attack: str, first: Sequence[bool], second: Sequence[bool]) -> Difference:
    difference, low, high = paired_difference(first, second)
    n, pairs = len(first), list(zip(first, second, strict=True))
    only = [sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)]
    return Difference(attack, n, sum(first) / n, sum(second) / n, difference, (low, high), *only)


def _shown(value: str | ThreatRecord) -> str:
    return value[:12] if isinstance(value, str) else str(value.to_dict())
