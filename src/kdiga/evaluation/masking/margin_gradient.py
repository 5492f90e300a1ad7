"""The input gradient of the margin must exist, and must predict how the margin changes nearby."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kdiga.attacks.balls import project, steepest, unit
from kdiga.evaluation.masking.check_context import CheckContext, DifferentiableModel
from kdiga.evaluation.masking.finding import Finding, excess, verdict_on
from kdiga.losses import margin
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

DIRECTIONS = 16  # random directions
VANISHED = 1e-3  # ratio to the change in random directions, which the gradient of a smooth loss fully explains
FRACTIONS = (1 / 100, 1 / 30, 1 / 10)  # lengths of small steps, in eps
LEAST_RATIO = 0.1  # of actual to predicted change
ABOVE_ROUNDING = 100  # least predicted change, in units of the rounding of the logits


class _Slope(NamedTuple):
    """The margin around one image.

    Args:
        predicted: Change over eps that the gradient predicts; None if the gradient is not finite.
        change: Largest change in random directions of length eps.
        ratio: Best ratio of actual to predicted change over small steps; None if rounding could hide all of them.
        constant: 1 if the logits do not change in random directions, otherwise 0.
    """

    predicted: float | None
    change: float
    ratio: float | None
    constant: int

    @property
    def vanished(self) -> bool:
        """Whether the gradient is not finite, zero, or negligible."""
        return self.predicted is None or self.predicted == 0 or self.predicted <= VANISHED * self.change


def flat_loss(context: CheckContext) -> Finding:
    """Count examples whose margin has no gradient, or one that is negligible against random directions.

    The margin (Carlini and Wagner, 2017) does not saturate as the cross-entropy does, so a gradient of zero comes from
    the model itself: rounding, steps, a saturated layer, a detached graph.
    """
    slopes = _slopes(context)
    vanished = sum(slope.vanished for slope in slopes)
    zero = sum(slope.predicted == 0 for slope in slopes)
    not_finite = sum(slope.predicted is None for slope in slopes)
    constant = sum(slope.constant for slope in slopes)
    verdict = verdict_on(vanished, len(slopes))
    evidence = {
        "vanished": vanished,
        "exactly_zero": zero,
        "not_finite": not_finite,
        "constant": constant,
        "examples": len(slopes),
        "p": excess(vanished, len(slopes)),
    }
    message = f"the margin has no usable input gradient on {vanished} of {len(slopes)} examples"
    if verdict != "passed":
        message += (
            f" (exactly zero on {zero}, not finite on {not_finite}; on {constant} the logits do not change in random "
            "directions either), so gradient attacks learn nothing there"
        )
    return Finding("flat-loss", verdict, f"{message}.", evidence)


def true_gradient(context: CheckContext) -> Finding:
    """Count examples where small steps along the gradient bring less than a tenth of the predicted change.

    The steps are 1/100, 1/30 and 1/10 of eps, and the best counts. Predicted changes near rounding are left out. An
    artificial gradient (a custom backward), or one that changes within a thousandth of eps (shattered), fails.
    """
    slopes = _slopes(context)
    ratios = [slope.ratio for slope in slopes if slope.ratio is not None]
    if not ratios:
        return Finding("true-gradient", "skipped", "every predicted change of the margin is near rounding.", {})
    broken = sum(ratio < LEAST_RATIO for ratio in ratios)
    verdict = verdict_on(broken, len(ratios))
    median = float(torch.tensor(ratios).median())
    evidence = {
        "broken": broken,
        "judged": len(ratios),
        "median_kept": median,
        "examples": len(slopes),
        "p": excess(broken, len(ratios)),
    }
    message = f"on {broken} of {len(ratios)} examples small steps bring under a tenth of the predicted change"
    if verdict != "passed":
        message += f" (median {median:.2g} of it): it is not the gradient of the measured loss"
    return Finding("true-gradient", verdict, f"{message}.", evidence)


def _slopes(context: CheckContext) -> list[_Slope]:
    settings = {"corners": DIRECTIONS, "fractions": list(FRACTIONS)}
    measured = context.measure("surface", settings, partial(_measure, context.model, context.threat))
    return [_Slope(*values) for values in measured]


def _measure(
    model: DifferentiableModel, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int
) -> list[tuple[float | None, float, float | None, int]]:
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.with_own_gradient(images)
        before = margin(logits, labels)
        (gradient,) = torch.autograd.grad(before.sum(), images)
    finite = gradient.flatten(1).isfinite().all(1)
    images, logits, before = images.detach(), logits.detach(), before.detach()
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    with torch.no_grad(), seeded(seed):
        predicted = (steepest(gradient, threat) * gradient).flatten(1).sum(1)
        rounding = model.resolution(logits) * logits.abs().amax(1)
        change = torch.zeros_like(before)
        for _ in range(DIRECTIONS):
            moved = project(images + steepest(torch.randn_like(images), threat), images, threat)
            change = torch.maximum(change, (margin(model(moved), labels) - before).abs())
        ratio = torch.full_like(before, -torch.inf)
        for fraction in FRACTIONS:
            small = ThreatModel(threat.norm, threat.eps * fraction)
            moved = project(images + small.eps * unit(gradient, small), images, small)
            expected = ((moved - images) * gradient).flatten(1).sum(1)
            found = (margin(model(moved), labels) - before) / expected
            ratio = torch.where(expected > ABOVE_ROUNDING * rounding, torch.maximum(ratio, found), ratio)
    constant = (change <= rounding).int()
    columns = zip(finite.tolist(), predicted.tolist(), change.tolist(), ratio.tolist(), constant.tolist(), strict=True)
    return [(a if ok else None, b, None if c == -torch.inf else c, d) for ok, a, b, c, d in columns]
