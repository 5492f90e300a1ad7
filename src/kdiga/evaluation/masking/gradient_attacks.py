"""PGD attacks of different strength, compared: more steps, rescaled logits and larger eps must not fool less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from kdiga.attacks import PGD
from kdiga.evaluation.masking.check_context import CheckContext, DifferentiableModel
from kdiga.evaluation.masking.finding import LEVEL, TOLERATED, Finding, excess, one_sided, verdict_on
from kdiga.losses import cross_entropy, margin
from kdiga.model_state import seeded
from kdiga.statistics import percent
from kdiga.types import ThreatModel

STEPS = (1, 10, 40, 100)
STEP_PAIRS = (*pairwise(STEPS), (STEPS[0], STEPS[-1]))
MAIN_STEPS = 40
TRAVEL = 2.5  # step size times steps, in eps: from the start to the farthest image of the ball, with some reserve
LARGER_EPS = 4  # number of eps values above the threat model's
SATURATED = torch.finfo(torch.float32).eps  # nats; a probability that float32 rounds to 1, a margin of about 16


@dataclass(frozen=True)
class CheckPGD:
    """PGD that travels 2.5 eps in total, whatever its number of steps; one step is FGSM from the image itself.

    The iterate with the highest objective counts. Attacks with several steps share the start of a batch, so that they
    differ only in their settings.

    Args:
        objective: "ce", "margin" or "scaled-ce": cross-entropy of the logits divided by the image's own margin where
            that is above 1, so that no exponential underflows. Smaller margins stay, since float arithmetic hides no
            gradient there and another temperature is another attack.
        steps: Number of steps, at least 1.
        eps: Size of the ball in the norm of the checks.
    """

    objective: Literal["ce", "margin", "scaled-ce"]
    steps: int
    eps: float

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"objective": self.objective, "steps": self.steps, "eps": self.eps}

    def fooled(self, context: CheckContext, among: Tensor | None = None) -> Tensor:
        """Return which examples the attack fools, bool (example,), on the CPU."""

        def attack(images: Tensor, labels: Tensor, seed: int) -> list[int]:
            pgd = PGD(
                threat=ThreatModel(context.threat.norm, self.eps),
                steps=self.steps,
                start="clean" if self.steps == 1 else "uniform",
                keep_best=True,
                step_size=self.eps if self.steps == 1 else TRAVEL * self.eps / self.steps,
            )
            with seeded(seed):
                adv_images = pgd(self._objective(context.model, images, labels), images)
            with torch.no_grad():
                return (context.model(adv_images).argmax(1) != labels).int().tolist()

        return context.fooled(f"{self.objective}-{self.steps} eps {self.eps:.3g}", self.key(), attack, among=among)

    def _objective(self, model: DifferentiableModel, images: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        if self.objective == "margin":
            return lambda candidates: margin(model(candidates), labels)
        if self.objective == "ce":
            return lambda candidates: cross_entropy(model(candidates), labels)
        with torch.no_grad():
            scale = margin(model(images), labels).abs().clamp_min(1)[:, None]
        return lambda candidates: cross_entropy(model(candidates) / scale, labels)


def robust_to_gradient_attacks(context: CheckContext) -> Tensor:
    """Return which examples PGD on the cross-entropy (all ``STEPS``) and on the margin leave, bool (example,).

    The checks below use the same attacks, which run once.
    """
    eps = context.threat.eps
    robust = ~CheckPGD("margin", MAIN_STEPS, eps).fooled(context)
    for steps in STEPS:
        robust &= ~CheckPGD("ce", steps, eps).fooled(context)
    return robust


def more_steps(context: CheckContext) -> Finding:
    """Compare PGD of 1, 10, 40 and 100 steps on the cross-entropy, example by example.

    Failed if more steps fool significantly fewer examples (exact McNemar, p < 0.01 over all pairs of step numbers) and
    more than 2 % fewer. Warning if 100 steps lower the accuracy of 40 by more than 2 %: the attack has not converged.
    A single step that beats many is the first sign of Athalye et al. (2018, section 3.1).
    """
    fooled = {steps: CheckPGD("ce", steps, context.threat.eps).fooled(context) for steps in STEPS}
    total = len(context.labels)
    counts = [int(found.sum()) for found in fooled.values()]
    accuracy = [1 - count / total for count in counts]
    rises = list[dict[str, int]]()
    for fewer, more in STEP_PAIRS:
        lost = int((fooled[fewer] & ~fooled[more]).sum())
        won = int((fooled[more] & ~fooled[fewer]).sum())
        if lost - won > TOLERATED * total and one_sided(lost, won) < LEVEL / len(STEP_PAIRS):
            rises.append({"fewer": fewer, "more": more, "only_fewer": lost, "only_more": won})
    evidence = {"steps": list(STEPS), "accuracy": accuracy, "examples": total, "rises": rises}
    message = (
        f"PGD with {', '.join(map(str, STEPS))} steps leaves an accuracy of "
        f"{', '.join(percent(share, 0) for share in accuracy)} on {total} examples"
    )
    if rises:
        worst = max(rises, key=lambda rise: rise["only_fewer"] - rise["only_more"])
        count = "one step fools" if worst["fewer"] == 1 else f"{worst['fewer']} steps fool"
        message += (
            f": {count} {worst['only_fewer']} that {worst['more']} do not, so the gradient does not point to where the "
            "loss is high."
        )
        return Finding("more-steps", "failed", message, evidence)
    if counts[-1] - counts[-2] > TOLERATED * total:
        message += f": the attack has not converged; use {2 * STEPS[-1]} steps or more."
        return Finding("more-steps", "warning", message, evidence)
    return Finding("more-steps", "passed", f"{message}.", evidence)


def saturation(context: CheckContext) -> Finding:
    """Attack the logits, and the logits divided by each image's own margin where that is above 1.

    Failed if the second attack fools significantly more than 2 % that the first leaves, and more than in the other
    direction (exact McNemar, p < 0.01): large logits hide the gradient of the loss. Warning if many losses are below
    float32's resolution but both attacks fool the same.
    """
    eps = context.threat.eps
    plain = CheckPGD("ce", MAIN_STEPS, eps).fooled(context)
    scaled = CheckPGD("scaled-ce", MAIN_STEPS, eps).fooled(context)
    only_scaled, only_plain = int((scaled & ~plain).sum()), int((plain & ~scaled).sum())
    losses = torch.tensor(context.measure("saturation", {}, partial(_losses_and_margins, context.model)))
    saturated, total = int((losses[:, 0] < SATURATED).sum()), len(losses)
    evidence = {
        "saturated": saturated,
        "zero_loss": int((losses[:, 0] == 0).sum()),
        "median_margin": -float(losses[:, 1].median()),
        "only_scaled": only_scaled,
        "only_plain": only_plain,
        "examples": total,
        "p": max(excess(only_scaled, total), one_sided(only_scaled, only_plain)),
    }
    message = (
        f"the loss of {saturated} of {total} examples is below float32's resolution, and PGD on logits divided by "
        f"their margin fools {only_scaled} that plain PGD leaves"
    )
    if verdict_on(only_scaled, total) == "failed" and one_sided(only_scaled, only_plain) < LEVEL:
        return Finding("saturation", "failed", f"{message}: the scale of the logits hides the gradient.", evidence)
    if verdict_on(saturated, total) == "failed":
        return Finding("saturation", "warning", f"{message}: run AutoAttack, which also attacks the margin.", evidence)
    return Finding("saturation", "passed", f"{message}.", evidence)


@torch.no_grad()
def _losses_and_margins(
    model: DifferentiableModel, images: Tensor, labels: Tensor, seed: int
) -> list[tuple[float, float]]:
    logits = model(images)
    return list(zip(cross_entropy(logits, labels).tolist(), margin(logits, labels).tolist(), strict=True))


def large_eps(context: CheckContext) -> Finding:
    """Attack with eps up to the whole pixel range: Linf 1, or L2 the diagonal of the image cube.

    An image of another class is then in the ball, so the attack misses something if an example is never fooled. Each
    eps attacks, on cross-entropy and on margin, what smaller ones left.
    """
    eps = context.threat.eps
    largest = 1.0 if context.threat.norm == "linf" else math.sqrt(context.images[0].numel())
    values = [eps]
    if eps < largest:
        values = [eps * (largest / eps) ** (number / LARGER_EPS) for number in range(LARGER_EPS)] + [largest]
    total = len(context.labels)
    robust = ~CheckPGD("ce", MAIN_STEPS, eps).fooled(context) & ~CheckPGD("margin", MAIN_STEPS, eps).fooled(context)
    curve = [int(robust.sum()) / total]
    for value in values[1:]:
        for objective in ("ce", "margin"):
            robust &= ~CheckPGD(objective, MAIN_STEPS, value).fooled(context, among=robust)
        curve.append(int(robust.sum()) / total)
    count = int(robust.sum())
    verdict = verdict_on(count, total)
    evidence = {"eps": values, "accuracy": curve, "standing": count, "examples": total, "p": excess(count, total)}
    message = f"at eps {largest:.3g}, where every image is in the ball, {count} of {total} examples are not fooled"
    if verdict != "passed":
        message += ": gradient attacks miss adversarial images that exist"
    return Finding("large-eps", verdict, f"{message}.", evidence)
