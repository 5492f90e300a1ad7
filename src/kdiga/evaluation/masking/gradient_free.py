"""Attacks that use no gradient of the model must not find what gradient attacks miss."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD, uniform_start
from kdiga.attacks.balls import project, steepest, within
from kdiga.evaluation.autoattack import square_cannot_start, square_stage
from kdiga.evaluation.masking.check_context import CheckContext
from kdiga.evaluation.masking.finding import Finding, excess, verdict_on
from kdiga.evaluation.masking.gradient_attacks import MAIN_STEPS, TRAVEL, robust_to_gradient_attacks
from kdiga.evaluation.masking.rays import shortest_rays
from kdiga.losses import cross_entropy
from kdiga.model_state import seeded
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.types import ThreatModel

QUERIES = 1000
DECISIONS = 300  # queries of the predicted class
POINTS = 100  # random points of each kind


def black_box(context: CheckContext) -> Finding:
    """Run the official Square attack (Andriushchenko et al., 2020; 1000 queries) on what gradient attacks leave.

    Carlini et al. (2019) and AutoAttack's authors take an example that only Square fools as a sign of masking.
    """
    if square_cannot_start(context.images, context.threat):
        side = min(context.images.shape[-2:])
        return Finding("black-box", "skipped", f"images {side} pixels wide are too small for Square in L2.", {})
    robust = robust_to_gradient_attacks(context)
    attack = partial(_square, context.model, context.threat)
    fooled = context.fooled("square", {"queries": QUERIES}, attack, among=robust)
    return _finding("black-box", f"Square with {QUERIES} queries", fooled, robust)


def random_search(context: CheckContext) -> Finding:
    """Try uniform points and corners of the ball (L2: points on its surface) on what gradient attacks leave."""
    robust = robust_to_gradient_attacks(context)
    attack = partial(_random_points, context.model, context.threat)
    fooled = context.fooled("random", {"points": POINTS}, attack, among=robust)
    return _finding("random-search", f"{2 * POINTS} random points of the ball", fooled, robust)


def transfer(context: CheckContext) -> Finding:
    """Try adversarial images of other models on what gradient attacks on the model leave; any that fools counts."""
    if not context.sources:
        return Finding("transfer", "skipped", "no teacher or other model was given to transfer an attack from.", {})
    robust = robust_to_gradient_attacks(context)
    fooled = dict[str, Tensor]()
    for name, source in context.sources.items():
        settings = {"teacher": fingerprint_of_model(source.model, context.given_images), "steps": MAIN_STEPS}
        attack = partial(_transferred, context.model, source, context.threat)
        fooled[name] = context.fooled("transfer", settings, attack)
    found = {name: int((one & robust).sum()) for name, one in fooled.items()}
    shares = {name: int(one.sum()) / len(one) for name, one in fooled.items()}
    names = sorted(fooled, key=lambda name: (-found[name], -shares[name]))
    of = "the teacher" if names == ["teacher"] else names[0]
    if len(names) > 1:
        of = f"{len(names)} models (most by {of}: {', '.join(f'{name} {found[name]}' for name in names)})"
    anyone = torch.stack(list(fooled.values())).any(0) & robust
    finding = _finding("transfer", f"the transferred adversarial images of {of}", anyone, robust)
    evidence = {**finding.evidence, "transfers": shares[names[0]]}
    if names != ["teacher"]:
        evidence["sources"] = {name: {"found": found[name], "transfers": shares[name]} for name in names}
    return Finding("transfer", finding.verdict, finding.message, evidence)


def decision_based(context: CheckContext) -> Finding:
    """Run RayS (Chen and Gu, 2020), which sees only the predicted class, on what gradient attacks leave."""
    robust = robust_to_gradient_attacks(context)
    attack = partial(_shortest_rays, context.model, context.threat)
    fooled = context.fooled("rays", {"queries": DECISIONS}, attack, among=robust)
    return _finding("decision-based", f"RayS with {DECISIONS} queries of the class alone", fooled, robust)


def _finding(name: str, attack: str, fooled: Tensor, robust: Tensor) -> Finding:
    """Judge how many examples an attack fools among those that gradient attacks leave."""
    count, total, left = int(fooled.sum()), len(robust), int(robust.sum())
    verdict = verdict_on(count, total)
    evidence = {"found": count, "left": left, "examples": total, "p": excess(count, total)}
    message = f"of {left} examples that gradient attacks leave (of {total}), {attack} fooled {count}"
    reason = "" if verdict == "passed" else ": gradient attacks miss what an attack without gradients finds"
    return Finding(name, verdict, f"{message}{reason}.", evidence)


def _square(model: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int) -> list[int]:
    return (~square_stage(QUERIES).attack(model, images, labels, threat, seed).correct).int().tolist()


@torch.no_grad()
def _random_points(model: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int) -> list[int]:
    fooled = torch.zeros_like(labels, dtype=torch.bool)
    with seeded(seed):
        for _ in range(POINTS):
            corners = project(images + steepest(torch.randn_like(images), threat), images, threat)
            for candidates in (uniform_start(images, threat), corners):
                fooled |= model(candidates).argmax(1) != labels
    return fooled.int().tolist()


def _shortest_rays(model: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int) -> list[int]:
    ends = shortest_rays(model, images, labels, queries=DECISIONS, enough=partial(within, threat=threat))
    with torch.no_grad():
        return ((model(ends).argmax(1) != labels) & within(ends, images, threat)).int().tolist()


def _transferred(
    model: nn.Module, teacher: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int
) -> list[int]:
    pgd = PGD(threat=threat, steps=MAIN_STEPS, step_size=TRAVEL * threat.eps / MAIN_STEPS, keep_best=True)
    with seeded(seed):
        adv_images = pgd(lambda candidates: cross_entropy(teacher(candidates), labels), images)
    with torch.no_grad():
        return (model(adv_images).argmax(1) != labels).int().tolist()
