"""Logits so large that float arithmetic hides the gradient of the cross-entropy must not pass for robustness."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kdiga.evaluation.masking.ascent import Ascent
from kdiga.evaluation.masking.exposed import Exposed
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.probe import Probe
from kdiga.evaluation.masking.significance import LEVEL, excess, one_sided, verdict_on
from kdiga.losses import cross_entropy, margin

SATURATED = torch.finfo(torch.float32).eps  # nats: a share that float32 cannot tell from 1; a margin of about 16
STEPS = 40


def saturation(probe: Probe) -> Finding:
    """Attack the logits as they are and divided by each image's own margin, if above 1; the second must not fool more.

    Failed if it fools significantly more than 2 % that the first leaves, and more than the other way round (exact
    McNemar, p < 0.01): the loss hides what is there. A warning where many losses are below float32's resolution but
    the attack finds the same.
    """
    eps = probe.threat.eps
    plain = Ascent("ce", STEPS, eps).fooled(probe)
    scaled = Ascent("scaled-ce", STEPS, eps).fooled(probe)
    only_scaled, only_plain = int((scaled & ~plain).sum()), int((plain & ~scaled).sum())
    losses = torch.tensor(probe.measure("saturation", {}, partial(_measure, probe.model)))
    saturated, total = int((losses[:, 0] < SATURATED).sum()), len(losses)
    middle = float(losses[:, 1].median())
    evidence = {
        "saturated": saturated,
        "zero_loss": int((losses[:, 0] == 0).sum()),
        "median_margin": -middle,
        "only_scaled": only_scaled,
        "only_plain": only_plain,
        "examples": total,
        "p": max(excess(only_scaled, total), one_sided(only_scaled, only_plain)),
    }
    numbers = (
        f"the loss of {saturated} of {total} examples is below float32's resolution, and PGD on logits divided by "
        f"their margin fools {only_scaled} that plain PGD leaves"
    )
    if verdict_on(only_scaled, total) == "failed" and one_sided(only_scaled, only_plain) < LEVEL:
        return Finding("saturation", "failed", f"{numbers}: the scale of the logits hides the gradient.", evidence)
    if verdict_on(saturated, total) == "failed":
        return Finding("saturation", "warning", f"{numbers}: use attacks on the margin beside it.", evidence)
    return Finding("saturation", "passed", f"{numbers}.", evidence)


@torch.no_grad()
def _measure(model: Exposed, images: Tensor, labels: Tensor, seed: int) -> list[tuple[float, float]]:
    logits = model(images)
    return list(zip(cross_entropy(logits, labels).tolist(), margin(logits, labels).tolist(), strict=True))
