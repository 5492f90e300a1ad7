"""All checks, in the order in which they are made: cheap ones first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kdiga.evaluation.masking.behaviour import (
    batch_independent,
    deterministic,
    eval_mode,
    logits_not_shares,
    uses_input,
)
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.gradient_free import black_box, random_search, transfer
from kdiga.evaluation.masking.probe import Probe
from kdiga.evaluation.masking.saturation import saturation
from kdiga.evaluation.masking.sizes import large_eps
from kdiga.evaluation.masking.steps import more_steps
from kdiga.evaluation.masking.surface import flat_loss, true_gradient


class Check(NamedTuple):
    """One check.

    Args:
        name: of its finding.
        make: looks at a model.
        attacks: whether it attacks examples that the model gets right, and so needs some, and a ball.
    """

    name: str
    make: Callable[[Probe], Finding]
    attacks: bool = True


CHECKS: tuple[Check, ...] = (
    Check("uses-input", uses_input, attacks=False),
    Check("eval-mode", eval_mode, attacks=False),
    Check("deterministic", deterministic, attacks=False),
    Check("batch-independent", batch_independent, attacks=False),
    Check("logits", logits_not_shares, attacks=False),
    Check("flat-loss", flat_loss),
    Check("true-gradient", true_gradient),
    Check("more-steps", more_steps),
    Check("saturation", saturation),
    Check("random-search", random_search),
    Check("transfer", transfer),
    Check("large-eps", large_eps),
    Check("black-box", black_box),
)
