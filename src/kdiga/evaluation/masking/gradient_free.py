"""Attacks that see no gradient of the model must not find what those with gradients miss."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD, uniform_start
from kdiga.attacks.balls import project, steepest
from kdiga.evaluation.autoattack import OFFICIAL_NORM
from kdiga.evaluation.masking.ascent import TRAVEL, white_box_left
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.probe import Probe
from kdiga.evaluation.masking.significance import excess, verdict_on
from kdiga.losses import cross_entropy
from kdiga.model_state import seeded
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.types import ThreatModel

QUERIES = 1000
POINTS = 100  # of each kind
TRANSFER_STEPS = 40
SMALLEST_SIDE = 5  # of an image; Square's L2 start divides it by 5


def black_box(probe: Probe) -> Finding:
    """Run the official Square attack (Andriushchenko et al., 2020; 1000 queries) on what gradient attacks leave.

    Carlini et al. (2019) and AutoAttack's authors take an example that falls to it alone for a sign of masking.
    """
    if probe.threat.norm == "l2" and min(probe.images.shape[-2:]) < SMALLEST_SIDE:
        side = min(probe.images.shape[-2:])
        return Finding("black-box", "skipped", f"images {side} pixels wide are too small for Square in L2.", {})
    left = white_box_left(probe)
    found = probe.fooled("square", {"queries": QUERIES}, partial(_square, probe.model, probe.threat), among=left)
    return _compared("black-box", f"Square with {QUERIES} queries", found, left)


def random_search(probe: Probe) -> Finding:
    """Try uniform points and corners of the ball (L2: points on its surface) on what gradient attacks leave."""
    left = white_box_left(probe)
    work = partial(_random, probe.model, probe.threat)
    found = probe.fooled("random", {"points": POINTS}, work, among=left)
    return _compared("random-search", f"{2 * POINTS} random points of the ball", found, left)


def transfer(probe: Probe) -> Finding:
    """Try adversarial images made for the teacher on what gradient attacks on the model leave."""
    if probe.teacher is None:
        return Finding("transfer", "skipped", "no teacher was given, so no attack could be carried over.", {})
    left = white_box_left(probe)
    settings = {"teacher": fingerprint_of_model(probe.teacher.model), "steps": TRANSFER_STEPS}
    found = probe.fooled("transfer", settings, partial(_transferred, probe.model, probe.teacher, probe.threat))
    share = int(found.sum()) / len(found)
    finding = _compared("transfer", "adversarial images made for the teacher", found & left, left)
    return Finding("transfer", finding.verdict, finding.message, {**finding.evidence, "transfers": share})


def _compared(name: str, attack: str, found: Tensor, left: Tensor) -> Finding:
    count, total, standing = int(found.sum()), len(left), int(left.sum())
    verdict = verdict_on(count, total)
    evidence = {"found": count, "left": standing, "examples": total, "p": excess(count, total)}
    message = f"of {standing} examples that gradient attacks leave (of {total}), {attack} fooled {count}"
    remedy = "" if verdict == "passed" else ": the gradient misses what can be found without it"
    return Finding(name, verdict, f"{message}{remedy}.", evidence)


def _square(model: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int) -> list[int]:
    from pyautoattack.square import SquareAttack

    def predict(candidates: Tensor) -> Tensor:
        return model(candidates).clone()  # it writes into the logits

    build: Any = SquareAttack
    with seeded(seed), torch.no_grad():
        attack = build(
            predict,
            norm=OFFICIAL_NORM[threat.norm],
            eps=threat.eps,
            n_queries=QUERIES,
            seed=seed % 2**31,
            device=images.device,
        )
        adv_images: Tensor = attack.perturb(images.contiguous(), labels)
        return (model(adv_images).argmax(1) != labels).int().tolist()


@torch.no_grad()
def _random(model: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int) -> list[int]:
    fooled = torch.zeros_like(labels, dtype=torch.bool)
    with seeded(seed):
        for _ in range(POINTS):
            corners = project(images + steepest(torch.randn_like(images), threat), images, threat)
            for candidates in (uniform_start(images, threat), corners):
                fooled |= model(candidates).argmax(1) != labels
    return fooled.int().tolist()


def _transferred(
    model: nn.Module, teacher: nn.Module, threat: ThreatModel, images: Tensor, labels: Tensor, seed: int
) -> list[int]:
    step_size = TRAVEL * threat.eps / TRANSFER_STEPS
    attack = PGD(threat=threat, steps=TRANSFER_STEPS, step_size=step_size, keep_best=True)
    with seeded(seed):
        adv_images = attack(lambda candidates: cross_entropy(teacher(candidates), labels), images)
    with torch.no_grad():
        return (model(adv_images).argmax(1) != labels).int().tolist()
