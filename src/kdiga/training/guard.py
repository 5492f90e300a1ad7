"""Notice that training has failed, and say which term failed it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdiga.errors import DivergedError
from kdiga.types import Term


def check_finite(terms: Mapping[str, float], epoch: int) -> None:
    """Check that every term's value is a number.

    Raises:
        DivergedError: naming the terms that are not.
    """
    broken = [name for name, value in terms.items() if not math.isfinite(value)]
    if broken:
        values = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
        raise DivergedError(
            f"training diverged in epoch {epoch + 1}: the term {' and '.join(map(repr, broken))} is not finite "
            f"({values}). Lower lr or that term's weight, or set training.grad_clip to 1."
        )


def check_above_chance(correct: int, examples: int, shares: Sequence[float], terms: Sequence[Term], epoch: int) -> None:
    """Check that validation accuracy is above what guessing would reach.

    Guessing the commonest class gets the largest share right, give or take the binomial spread; a
    model within three standard deviations of it is taken for collapsed.

    Args:
        correct: validation examples that the student gets right.
        examples: how many there are.
        shares: of each class among them.
        terms: of the epoch, with mean values as floats.
        epoch: from 0.

    Raises:
        DivergedError: naming the term that weighs most, apart from the labels'.
    """
    chance = max(shares)
    spread = math.sqrt(chance * (1 - chance) / examples)
    if correct / examples > chance + 3 * spread:
        return
    suspects = [term for term in terms if term.name != "label"] or list(terms)
    heaviest = max(suspects, key=lambda term: term.weight * abs(float(term.value)))
    values = ", ".join(f"{term.name} {term.weight:.3g} x {float(term.value):.3g}" for term in terms)
    raise DivergedError(
        f"training collapsed: validation accuracy {correct / examples:.1%} after epoch {epoch + 1} is no better than "
        f"guessing ({chance:.1%}). The heaviest term is {heaviest.name!r} ({values}); lower its weight, lengthen its "
        "ramp, or lower lr. No weights were saved as a result."
    )
