"""Attacks made on the float model in PyTorch and tried on exported files, which mostly have no gradients of their own.

On a file that computes the same function these are white-box attacks. On a quantised one they are transferred, and
say less: an image that fools the float model need not be the one that fools its copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.errors import InputError
from kdiga.evaluation import AttackResult, attack_by_name
from kdiga.evaluation.attacks import OBJECTIVES, Attack, GradientStage, Stage, seed_at
from kdiga.evaluation.autoattack import OfficialStage
from kdiga.export.formats import Logits
from kdiga.model_state import device_of, evaluating, frozen_parameters, seeded
from kdiga.results.attack_names import TRANSFER
from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class Victim:
    """A file that is attacked.

    Args:
        name: of its format.
        call: its function from images to logits.
        digest: of its bytes: what outcomes are kept under.
    """

    name: str
    call: Logits
    digest: str


def transferred(
    model: nn.Module,
    victims: Sequence[Victim],
    images: Tensor,
    labels: Tensor,
    *,
    attacks: Sequence[str],
    threat: ThreatModel,
    fingerprint: str,
    seed: int = 0,
    batch_size: int = 250,
    result_cache: ResultCache | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, dict[str, AttackResult]]:
    """Attack a model and try the images on the files made of it.

    An example counts as right only if it is right without an attack and on every image that the attack made of it.
    All examples are attacked, also those that the model gets wrong: a file may get them right.

    Args:
        model: in PyTorch, differentiable; left as found.
        victims: the files.
        images: float (example, channel, height, width) in [0, 1].
        labels: int64 (example,).
        attacks: "fgsm", "pgd-STEPS", "cw-STEPS", both with "xRESTARTS", or "autoattack".
        threat: the ball to stay in.
        fingerprint: of the model.
        seed: of random starts.
        batch_size: images attacked, and kept, together.
        result_cache: where outcomes are kept; None keeps none.
        on_progress: told the attack, examples done and examples in all.

    Returns:
        by victim and by "transfer ATTACK".

    Raises:
        InputError: for an unknown attack, or "clean", which is none.
    """
    result_cache = result_cache or ResultCache()
    found: dict[str, dict[str, AttackResult]] = {victim.name: {} for victim in victims}
    for attack in transfer_attacks(attacks):
        name = TRANSFER + attack.name
        work_units: list[WorkUnit] = []
        for place, start in enumerate(range(0, len(images), batch_size)):
            rows = slice(start, start + batch_size)
            part = images[rows], labels[rows]
            key = {
                "transfer": attack.name,
                "stages": [stage.key() for stage in attack.stages],
                "model": fingerprint,
                "victims": {victim.name: victim.digest for victim in victims},
                "seed": seed_at(seed, place),
                "examples": fingerprint_of_tensors(*part),
                "threat": [threat.norm, threat.eps],
                "pyautoattack": installed_version("pyautoattack"),
            }
            work = partial(_try, model, victims, *part, attack, threat, seed_at(seed, place))
            work_units.append(WorkUnit(name, key, len(part[1]), work))
        outcomes: list[Mapping[str, Any]] = run_work_units(work_units, result_cache, on_progress)
        for victim in victims:
            right = [bool(one) for outcome in outcomes for one in outcome[victim.name]]
            found[victim.name][name] = AttackResult(name, tuple(right), 0.0)
    return found


def transfer_attacks(names: Sequence[str]) -> list[Attack]:
    """Return attacks by name, each once.

    Raises:
        InputError: for an unknown name, or "clean".
    """
    chosen: dict[str, Attack] = {}
    for name in names:
        attack = attack_by_name(name)
        if attack is None:
            raise InputError(f"{name!r} is no attack to transfer; give some of fgsm, pgd-40, cw-40x5, autoattack.")
        chosen[attack.name] = attack
    return list(chosen.values())


def _try(
    model: nn.Module,
    victims: Sequence[Victim],
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    threat: ThreatModel,
    seed: int,
) -> dict[str, list[int]]:
    right = {victim.name: _right(victim, images, labels) for victim in victims}
    standing = images
    for stage in attack.stages:
        tried = _attacked(stage, model, standing, labels, threat, seed)
        if isinstance(stage, OfficialStage):
            standing = tried  # a stage of AutoAttack goes on with what the ones before left standing
        for victim in victims:
            right[victim.name] &= _right(victim, tried, labels)
    return {name: found.int().tolist() for name, found in right.items()}


def _attacked(stage: Stage, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    """Return adversarial images on the CPU."""
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with evaluating(model), frozen_parameters(model):
        if isinstance(stage, GradientStage):
            single, objective = stage.steps == 1, OBJECTIVES[stage.objective]
            pgd = PGD(threat=threat, steps=stage.steps, start="clean" if single else "uniform", keep_best=not single)
            with seeded(seed_at(seed, stage.restart)):
                return pgd(lambda candidates: objective(model(candidates), labels), images).cpu()
        if not isinstance(stage, OfficialStage):
            raise InputError(f"the attack {stage.name!r} leaves no images that could be tried on another model.")
        with torch.no_grad():
            standing = model(images).argmax(1) == labels
        adv_images = images.clone()
        if standing.any():
            adv_images[standing], _ = stage.attack(model, images[standing], labels[standing], threat=threat, seed=seed)
        return adv_images.cpu()


def _right(victim: Victim, images: Tensor, labels: Tensor) -> Tensor:
    return victim.call(images).argmax(1).cpu() == labels.cpu()
