"""What a verdict is, and how those on single pairs add up to one on a claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Verdict = Literal["supported", "contradicted", "undecided"]

RULE = (
    "The claim is supported if at least half of all cases support it and none contradicts it, contradicted if at least "
    "half contradict it and more contradict than support it, and undecided otherwise. A case that was not measured is "
    "undecided; a student that diverged is wrong on every image."
)


def at_least(low: float, high: float, *, bar: float = 0.0) -> Verdict:
    """Return whether an interval says that something reaches a bar.

    >>> at_least(0.1, 0.2), at_least(-0.2, -0.1), at_least(-0.1, 0.1)
    ('supported', 'contradicted', 'undecided')
    """
    if low >= bar:
        return "supported"
    return "contradicted" if high < bar else "undecided"


def opposite(verdict: Verdict) -> Verdict:
    """Return the verdict on the contrary."""
    turned: dict[Verdict, Verdict] = {"supported": "contradicted", "contradicted": "supported"}
    return turned.get(verdict, verdict)


def both(one: Verdict, other: Verdict) -> Verdict:
    """Return the verdict on two things that have to hold together."""
    if "contradicted" in (one, other):
        return "contradicted"
    return "supported" if one == other == "supported" else "undecided"


def overall(cases: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a claim; see :data:`RULE`.

    >>> overall(["supported", "supported", "undecided"]), overall(["supported", "contradicted"])
    ('supported', 'undecided')
    >>> overall(["contradicted", "undecided"]), overall([])
    ('contradicted', 'undecided')
    """
    count = Counter(cases)
    if count["contradicted"] * 2 >= len(cases) and count["contradicted"] > count["supported"]:
        return "contradicted"
    if count["supported"] * 2 >= len(cases) and count["supported"] and not count["contradicted"]:
        return "supported"
    return "undecided"


def counted(cases: Sequence[Verdict]) -> dict[str, int]:
    """Return how many cases there are of each verdict."""
    count = Counter(cases)
    return {word: count[word] for word in ("supported", "contradicted", "undecided")}
