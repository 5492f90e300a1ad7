"""One attack on all examples: batch by batch and stage by stage, each kept when it is known."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.checks import check_labels
from kdiga.errors import InputError
from kdiga.evaluation.attacks import Attack, Stage, seed_at
from kdiga.evaluation.autoattack import remarks
from kdiga.evaluation.meter import Meter
from kdiga.evaluation.result import AttackResult
from kdiga.model_state import device_of
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Args:
        model: in eval mode, its parameters frozen.
        images: float (example, channel, height, width), on the model's device.
        labels: int64 (example,).
        standing: bool (example,), on the CPU: those that an attack may look at.
        fingerprint: of the model; "" where nothing is kept.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    standing: Tensor
    fingerprint: str

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, labels: Tensor, batch_size: int, *, keyed: bool) -> Target:
        """Return the target whose standing examples are those that the model gets right.

        Args:
            model: in eval mode, its parameters frozen.
            images: float (example, channel, height, width), anywhere.
            labels: int64 (example,).
            batch_size: of forward passes.
            keyed: whether a fingerprint is needed.

        Raises:
            InputError: for a model that returns something other than finite logits, or labels beyond its classes.
        """
        device = device_of(model)
        images, labels = images.to(device), labels.to(device)
        standing = _classified(model, images, labels, batch_size)
        return cls(model, images, labels, standing, fingerprint_of_model(model) if keyed else "")


def attack_all(
    target: Target,
    attack: Attack,
    *,
    threat: ThreatModel,
    seed: int,
    batch_size: int,
    result_cache: ResultCache,
    progress: OnProgress | None = None,
) -> AttackResult:
    """Attack the examples that stand.

    Args:
        target: model and examples.
        attack: its stages.
        threat: the ball to stay in.
        seed: of random starts.
        batch_size: examples attacked together.
        result_cache: where outcomes are kept.
        progress: called with attack, examples done and examples to do.
    """
    meter = Meter(attack.name, len(target.labels), sum(stage.forwards for stage in attack.stages), progress)
    work_units: list[WorkUnit] = []
    for place, start in enumerate(range(0, len(target.labels), batch_size)):
        rows = slice(start, start + batch_size)
        part = replace(target, images=target.images[rows], labels=target.labels[rows], standing=target.standing[rows])
        key = _key(part, attack, threat, seed_at(seed, place))
        work_units.append(
            WorkUnit(attack.name, key, len(part.labels), partial(_run, part, attack, key, result_cache, meter))
        )
    outcomes: list[list[dict[str, Any]]] = run_work_units(work_units, result_cache, meter.finished)
    standing = [[right for chunk in outcomes for right in chunk[place]["right"]] for place in range(len(attack.stages))]
    notes = [note for chunk in outcomes for outcome in chunk for note in outcome["notes"]]
    stages = {stage.name: sum(right) / len(right) for stage, right in zip(attack.stages, standing, strict=True)}
    return AttackResult(
        attack.name,
        tuple(map(bool, standing[-1])),
        sum(outcome["seconds"] for chunk in outcomes for outcome in chunk),
        tuple(dict.fromkeys([*notes, *remarks(stages)])),
        stages,
    )


def _key(part: Target, attack: Attack, threat: ThreatModel, seed: int) -> dict[str, Any]:
    """Return all that decides what an attack on one batch comes to."""
    return {
        "attack": attack.name,
        "stages": [stage.key() for stage in attack.stages],
        "model": part.fingerprint,
        "examples": fingerprint_of_tensors(part.images, part.labels),
        "standing": "".join(map(str, part.standing.int().tolist())),
        "threat": [threat.norm, threat.eps],
        "seed": seed,
        "pyautoattack": installed_version("pyautoattack"),
    }


def _run(
    part: Target, attack: Attack, key: dict[str, Any], result_cache: ResultCache, meter: Meter
) -> list[dict[str, Any]]:
    """Run the stages one after another, and return what each came to."""
    threat = ThreatModel(*key["threat"])
    outcomes, right = list[dict[str, Any]](), part.standing
    for place, stage in enumerate(attack.stages):
        work = partial(_run_stage, replace(part, standing=right), stage, threat, key["seed"], meter)
        # One stage alone is the portion, which is kept itself.
        outcome = work() if len(attack.stages) == 1 else result_cache.keep(key | {"stage": place}, work)
        right = torch.tensor(outcome["right"], dtype=torch.bool)
        outcomes.append(outcome)
        meter.staged(stage.forwards, len(part.labels))
    return outcomes


def _run_stage(part: Target, stage: Stage, threat: ThreatModel, seed: int, meter: Meter) -> dict[str, Any]:
    started, right, notes = time.perf_counter(), part.standing.clone(), tuple[str, ...]()
    if right.any():
        rows = right.to(part.images.device)
        with meter.counting(part.model, stage.forwards, len(part.labels)):
            found = stage(part.model, part.images[rows].contiguous(), part.labels[rows], threat=threat, seed=seed)
        right[part.standing] = found.right
        notes = tuple(found.notes)
    return {"right": right.int().tolist(), "notes": list(notes), "seconds": time.perf_counter() - started}


@torch.no_grad()
def _classified(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    predictions = list[Tensor]()
    num_classes = 0
    for part in images.split(batch_size):
        logits = model(part)
        if logits.dim() != 2:
            raise InputError(f"the model returned shape {tuple(logits.shape)}; it must be (batch, num_classes) logits.")
        if not bool(logits.isfinite().all()):
            raise InputError("the model returned logits that are not finite; its weights are damaged or diverged.")
        predictions.append(logits.argmax(1))
        num_classes = logits.shape[1]
    check_labels(labels, images, num_classes)
    return (torch.cat(predictions) == labels).cpu()
