"""Attacks by name, each a sequence of stages: FGSM, PGD on two objectives with restarts, AutoAttack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.errors import InputError, unknown
from kdiga.evaluation.autoattack import VERSIONS, autoattack_stage
from kdiga.evaluation.stages import Stage, StageOutcome, seed_at
from kdiga.losses import classified_correctly, cross_entropy, margin
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

EXAMPLES = ("clean", "fgsm", "pgd-20", "pgd-40x5", "cw-40", "autoattack")
OBJECTIVES = {"pgd": cross_entropy, "cw": margin}


class Attack(NamedTuple):
    """A named attack."""

    name: str
    stages: Sequence[Stage]


def attack_by_name(name: str, *, version: str = "standard") -> Attack | None:
    """Return an attack by name; None for "clean", which needs none.

    Args:
        name: "clean", "fgsm", "pgd-STEPS", "cw-STEPS" (PGD on the margin), "pgd-STEPSxRESTARTS", "cw-STEPSxRESTARTS"
            or "autoattack", in any case.
        version: Version of AutoAttack: "standard", "plus" or "rand".

    Raises:
        InputError: For another name or version.
    """
    lowered = name.strip().lower()
    if lowered == "clean":
        return None
    if lowered == "fgsm":
        return Attack(lowered, [pgd_stage("pgd", 1)])
    if lowered == "autoattack":
        if version not in VERSIONS:
            raise unknown("AutoAttack version", version, VERSIONS)
        return Attack(lowered, [autoattack_stage(stage, version) for stage in VERSIONS[version]])
    if match := re.fullmatch(r"(pgd|cw)-(\d+)(?:x(\d+))?", lowered):
        steps, restarts = int(match[2]), int(match[3] or 1)
        if steps < 2 or restarts < 1:
            raise InputError(
                f"attack was {name!r}; it needs at least 2 steps and 1 restart, as in pgd-40x5. One step is fgsm."
            )
        return Attack(lowered, [pgd_stage(match[1], steps, restart) for restart in range(restarts)])
    raise unknown("attack", name, EXAMPLES)


def pgd_stage(objective: str, steps: int, restart: int = 0) -> Stage:
    """Return FGSM, or PGD from one uniform start with step size eps / 4.

    An example is fooled if its iterate with the highest objective is misclassified.

    Args:
        objective: "pgd" for the cross-entropy, "cw" for the margin of Carlini and Wagner (2017).
        steps: Number of steps; 1 is FGSM, from the image itself.
        restart: Index of the random start, from 0.
    """

    def attack(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> StageOutcome:
        single, loss = steps == 1, OBJECTIVES[objective]
        pgd = PGD(threat=threat, steps=steps, start="clean" if single else "uniform", keep_best=not single)
        with seeded(seed_at(seed, restart)):
            adv_images = pgd(lambda candidates: loss(model(candidates), labels), images)
        with torch.no_grad():
            return StageOutcome(classified_correctly(model(adv_images), labels).cpu(), adv_images)

    return Stage(
        name=f"start {restart + 1}",
        forwards=steps + 2,  # the last iterate and the returned one need a pass each
        backwards=steps,
        key={"stage": "gradient", "objective": objective, "steps": steps, "restart": restart},
        attack=attack,
    )
