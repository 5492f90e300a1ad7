"""The gradient of the margin must be there, and must say what happens to the margin nearby."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kdiga.attacks.balls import project, steepest, unit
from kdiga.evaluation.masking.exposed import Exposed
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.probe import Probe
from kdiga.evaluation.masking.significance import excess, verdict_on
from kdiga.losses import margin
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

CORNERS = 16  # random directions
VANISHED = 1e-3  # of the change seen in random directions, which a gradient of a smooth loss explains in full
FRACTIONS = (1 / 100, 1 / 30, 1 / 10)  # of eps: lengths of small steps
KEPT = 0.1  # least part of the promised change that a small step brings
ABOVE_ROUNDING = 100  # in units of the rounding of the logits


class _Place(NamedTuple):
    """One example: what the gradient promises over eps, what random corners change, what small steps keep of it."""

    promised: float | None  # None: not finite
    changed: float
    kept: float | None  # None: nothing to judge by
    flat: int


def flat_loss(probe: Probe) -> Finding:
    """Count examples whose margin has no gradient, exactly or beside the change that random directions bring.

    The margin (Carlini and Wagner, 2017) does not saturate as the cross-entropy does, so a gradient that is zero
    comes from the model itself: rounding, steps, a saturated layer, a detached graph.
    """
    places = _places(probe)
    zero = sum(place.promised == 0 for place in places)
    flat = sum(place.flat for place in places)
    vanished = sum(
        place.promised is None or place.promised <= VANISHED * place.changed or place.promised == 0 for place in places
    )
    broken = sum(place.promised is None for place in places)
    verdict = verdict_on(vanished, len(places))
    evidence = {
        "vanished": vanished,
        "exactly_zero": zero,
        "not_finite": broken,
        "constant": flat,
        "examples": len(places),
        "p": excess(vanished, len(places)),
    }
    message = f"the margin has no usable input gradient on {vanished} of {len(places)} examples"
    if verdict != "passed":
        message += (
            f" (exactly zero on {zero}, not finite on {broken}; on {flat} the logits do not change in random "
            "directions either), so attacks by gradient learn nothing there"
        )
    return Finding("flat-loss", verdict, f"{message}.", evidence)


def true_gradient(probe: Probe) -> Finding:
    """Count examples where small steps along the gradient bring less than a tenth of what it promises.

    Steps of 1/100, 1/30 and 1/10 of eps, the best of which counts; what rounding could hide is not judged. A gradient
    that is made up (a custom backward) or that changes within a thousandth of eps (shattered) does not keep it.
    """
    places = _places(probe)
    judged = [place.kept for place in places if place.kept is not None]
    if not judged:
        return Finding("true-gradient", "skipped", "no example has a gradient that small steps could be held to.", {})
    broken = sum(kept < KEPT for kept in judged)
    verdict = verdict_on(broken, len(judged))
    middle = float(torch.tensor(judged).median())
    evidence = {
        "broken": broken,
        "judged": len(judged),
        "median_kept": middle,
        "examples": len(places),
        "p": excess(broken, len(judged)),
    }
    message = f"on {broken} of {len(judged)} examples small steps bring under a tenth of what the gradient promises"
    if verdict != "passed":
        message += f" (median {middle:.2g} of it): it is not the gradient of the loss that is measured"
    return Finding("true-gradient", verdict, f"{message}.", evidence)


def _places(probe: Probe) -> list[_Place]:
    settings = {"corners": CORNERS, "fractions": list(FRACTIONS)}
    return [
        _Place(*place) for place in probe.measure("surface", settings, partial(_measure, probe.model, probe.threat))
    ]


def _measure(
    model: Exposed, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int
) -> list[tuple[float | None, float, float | None, int]]:
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.untouched(images)
        (gradient,) = torch.autograd.grad(margin(logits, labels).sum(), images)
    finite = gradient.flatten(1).isfinite().all(1)
    images, logits, gradient = images.detach(), logits.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)
    with torch.no_grad(), seeded(seed):
        promised = (steepest(gradient, threat) * gradient).flatten(1).sum(1)
        rounding = torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        changed = _changes(model, threat, images, labels, logits)
        kept = _kept(model, threat, images, labels, logits, gradient, ABOVE_ROUNDING * rounding)
    flat = (changed <= rounding).int()
    columns = zip(finite.tolist(), promised.tolist(), changed.tolist(), kept.tolist(), flat.tolist(), strict=True)
    return [(a if ok else None, b, None if c == -torch.inf else c, d) for ok, a, b, c, d in columns]


def _changes(model: Exposed, threat: ThreatModel, images: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """Return the largest change of each margin over random corners of the ball (L2: points of its surface)."""
    before, largest = margin(logits, labels), torch.zeros_like(logits[:, 0])
    for _ in range(CORNERS):
        corners = project(images + steepest(torch.randn_like(images), threat), images, threat)
        largest = torch.maximum(largest, (margin(model(corners), labels) - before).abs())
    return largest


def _kept(
    model: Exposed, threat: ThreatModel, images: Tensor, labels: Tensor, logits: Tensor, gradient: Tensor, least: Tensor
) -> Tensor:
    """Return the best ratio of actual to promised change over small steps within [0, 1]; -inf where none is judged."""
    before, best = margin(logits, labels), torch.full_like(logits[:, 0], -torch.inf)
    for fraction in FRACTIONS:
        small = ThreatModel(threat.norm, threat.eps * fraction)
        moved = project(images + small.eps * unit(gradient, small), images, small)
        promised = ((moved - images) * gradient).flatten(1).sum(1)
        ratio = (margin(model(moved), labels) - before) / promised
        best = torch.where(promised > least, torch.maximum(best, ratio), best)
    return best
