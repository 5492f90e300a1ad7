"""Attacks on exported files, which mostly have no gradients.

Transferred attacks are made on the float model in PyTorch. For a file that computes the same function they are
white-box attacks. For a quantised file they say less, since an image that fools the float model need not fool its copy.
Square needs only the logits of the file itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation import AttackResult, attack_by_name
from kdiga.evaluation.autoattack import square_stage
from kdiga.evaluation.named_attacks import Attack, pgd_stage
from kdiga.evaluation.run_attack import AttackTarget, run_attack
from kdiga.evaluation.stages import AttackedModel, AttackSettings, Stage, seed_at
from kdiga.export.exported_files import ExportedFile
from kdiga.export.formats import Logits
from kdiga.losses import classified_correctly
from kdiga.model_state import device_of, evaluating, frozen_parameters
from kdiga.results.attack_names import TRANSFER
from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import WorkUnit, run_work_units

QUERIES = 5000  # as in AutoAttack
PGD_STEPS = 40  # before AutoAttack
TRANSFER_BATCH_SIZE, SQUARE_BATCH_SIZE = 250, 100


def transfer_attacks(names: Sequence[str]) -> list[Attack]:
    """Return attacks by name, each once.

    AutoAttack skips images that the model misclassifies, which a file may get right, so PGD attacks all images first.
    """
    chosen: dict[str, Attack] = {}
    for name in names:
        attack = attack_by_name(name)
        if attack is None:
            raise InputError(f"{name!r} cannot be transferred; give some of fgsm, pgd-40, cw-40x5, autoattack.")
        if any(stage.of_autoattack for stage in attack.stages):
            attack = attack._replace(stages=[pgd_stage("pgd", PGD_STEPS), *attack.stages])
        chosen[attack.name] = attack
    return list(chosen.values())


def transfer_to_files(
    model: nn.Module,
    files: Sequence[ExportedFile],
    images: Tensor,
    labels: Tensor,
    *,
    attacks: Sequence[Attack],
    fingerprint: str,
    settings: AttackSettings,
) -> dict[str, dict[str, AttackResult]]:
    """Attack a model and try the adversarial images on its files.

    An example counts as correct only if a file classifies it correctly without an attack and on every adversarial image
    of the attack. All examples are attacked, also those that the model misclassifies but a file may not. The attacks
    are of :func:`transfer_attacks`; the model has gradients and stays unchanged.

    Returns:
        Results by the name of the file and by "transfer ATTACK".
    """
    found: dict[str, dict[str, AttackResult]] = {file.name: {} for file in files}
    for attack in attacks:
        name = TRANSFER + attack.name
        work_units: list[WorkUnit] = []
        for number, start in enumerate(range(0, len(images), settings.batch_size)):
            rows = slice(start, start + settings.batch_size)
            batch, own = (images[rows], labels[rows]), replace(settings, seed=seed_at(settings.seed, number))
            key = {
                "transfer": attack.name,
                "stages": [dict(stage.key) for stage in attack.stages],
                "model": fingerprint,
                "victims": {file.name: file.digest for file in files},
                "seed": own.seed,
                "examples": fingerprint_of_tensors(*batch),
                "threat": [own.threat.norm, own.threat.eps],
                "pyautoattack": installed_version("pyautoattack"),
            }
            work_units.append(WorkUnit(name, key, len(batch[1]), partial(_try, model, files, *batch, attack, own)))
        outcomes: list[Mapping[str, Any]] = run_work_units(work_units, settings.result_cache, settings.progress)
        for file in files:
            correct = tuple(bool(one) for outcome in outcomes for one in outcome[file.name])
            found[file.name][name] = AttackResult(name, correct, 0.0)
    return found


def _try(
    model: nn.Module,
    files: Sequence[ExportedFile],
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    settings: AttackSettings,
) -> dict[str, list[int]]:
    correct = {file.name: _correct(file, images, labels) for file in files}
    current = images
    for stage in attack.stages:
        adv_images = _adversarial(stage, model, current, labels, settings)
        if stage.of_autoattack:
            current = adv_images  # the next stage attacks only what this one leaves
        for file in files:
            correct[file.name] &= _correct(file, adv_images, labels)
    return {name: found.int().tolist() for name, found in correct.items()}


def _adversarial(stage: Stage, model: nn.Module, images: Tensor, labels: Tensor, settings: AttackSettings) -> Tensor:
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with evaluating(model), frozen_parameters(model):
        if not stage.of_autoattack:
            attacked = AttackedModel(model, images, settings.threat)
            return stage.attack(attacked, images, labels, settings.threat, settings.seed).adv_images.cpu()
        with torch.no_grad():
            rows = classified_correctly(model(images), labels)
        adv_images = images.clone()
        if rows.any():
            attacked = AttackedModel(model, images[rows], settings.threat)
            outcome = stage.attack(attacked, images[rows], labels[rows], settings.threat, settings.seed)
            adv_images[rows] = outcome.adv_images
        return adv_images.cpu()


def _correct(file: ExportedFile, images: Tensor, labels: Tensor) -> Tensor:
    return classified_correctly(file.call(images).cpu(), labels.cpu())


class _FileModule(nn.Module):
    """A file's function as a module without gradients."""

    def __init__(self, call: Logits) -> None:
        super().__init__()
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        return self.call(images)


def attack_by_queries(
    file: ExportedFile, images: Tensor, labels: Tensor, *, queries: int = QUERIES, settings: AttackSettings
) -> AttackResult:
    """Attack a file by Square, which needs only its logits; ``queries`` is the number for an example never fooled."""
    module = _FileModule(file.call).eval()
    target = AttackTarget.of(module, images, labels, batch_size=settings.batch_size, fingerprint=file.digest)
    stage = square_stage(queries)
    return run_attack(target, Attack(stage.name, [stage]), settings.labelled(f"on {file.name}"))
