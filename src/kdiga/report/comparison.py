"""Two evaluations of the same test images, example by example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdiga.errors import InputError
from kdiga.results.attack_names import attack_name
from kdiga.statistics import paired_difference


@dataclass(frozen=True)
class Difference:
    """Two models under one attack.

    Args:
        attack: its name.
        examples: that both were measured on.
        first: accuracy of the first, in [0, 1].
        second: of the second.
        difference: first less second.
        interval: paired 95 % interval of the difference.
        only_first: examples that the first alone gets right.
        only_second: examples that the second alone gets right.
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


def compare_evaluations(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Return the differences under the attacks that both evaluations have.

    Args:
        first: content of an ``evaluation.json``.
        second: of another, on the same data under the same threat model.

    Raises:
        InputError: if they have no attack in common, or were not measured on the same examples.
    """
    for name in ("data", "threat", "data_fingerprint"):
        if name in first and name in second and first[name] != second[name]:
            raise InputError(
                f"the two evaluations differ in {name} ({_shown(first[name])}, {_shown(second[name])}); only "
                "results on the same test images under the same threat model can be compared."
            )
    shared = [attack for attack in first["correct"] if attack in second["correct"]]
    if not shared:
        raise InputError(
            f"the two evaluations have no attack in common ({', '.join(first['correct'])}; "
            f"{', '.join(second['correct'])}); run `kdiga evaluate` with the same --attacks."
        )
    return [_difference(attack, first["correct"][attack], second["correct"][attack]) for attack in shared]


def _difference(attack: str, first: Sequence[bool], second: Sequence[bool]) -> Difference:
    difference, low, high = paired_difference(first, second)
    n, pairs = len(first), list(zip(first, second, strict=True))
    only = [sum(bool(a) and not b for a, b in pairs), sum(bool(b) and not a for a, b in pairs)]
    return Difference(attack, n, sum(first) / n, sum(second) / n, difference, (low, high), *only)


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
