"""One attack on all examples, batch by batch and stage by stage; each outcome is cached as soon as it is known."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.checks import check_labels, check_logits
from kdiga.evaluation.accuracies import AttackResult
from kdiga.evaluation.autoattack import square_warnings
from kdiga.evaluation.named_attacks import Attack
from kdiga.evaluation.stages import AttackedModel, AttackSettings, Stage, seed_at
from kdiga.model_output import logits_at
from kdiga.model_state import device_of
from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import OnProgress, WorkUnit, run_work_units


@dataclass(frozen=True)
class AttackTarget:
    """The model and the examples that an attack works on.

    Args:
        model: Network in eval mode, with frozen parameters.
        images: Images, float (example, channel, height, width), on the model's device.
        labels: Labels, int64 (example,).
        correct: Examples to attack, bool (example,), on the CPU: at first the correctly classified ones.
        fingerprint: Fingerprint of the model; "" if outcomes are not cached on disk.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    correct: Tensor
    fingerprint: str

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int, fingerprint: str) -> AttackTarget:
        """Return the target that contains the correctly classified examples.

        Raises:
            InputError: If the model does not return finite logits, or labels are beyond its classes.
        """
        device = device_of(model)
        images, labels = images.to(device), labels.to(device)
        return cls(model, images, labels, _classified_correctly(model, images, labels, batch_size), fingerprint)

    def rows(self, rows: slice) -> AttackTarget:
        """Return some examples."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], correct=self.correct[rows])


def run_attack(target: AttackTarget, attack: Attack, settings: AttackSettings) -> AttackResult:
    """Attack the correctly classified examples of a target."""
    progress = _Progress(attack, len(target.labels), settings.progress)
    work_units: list[WorkUnit] = []
    for number, start in enumerate(range(0, len(target.labels), settings.batch_size)):
        batch = target.rows(slice(start, start + settings.batch_size))
        own = replace(settings, seed=seed_at(settings.seed, number))
        key = _key(batch, attack, own)
        work = partial(_attack_batch, batch, attack, own, key, progress)
        work_units.append(WorkUnit(attack.name, key, len(batch.labels), work))
    outcomes: list[list[dict[str, Any]]] = run_work_units(work_units, settings.result_cache, progress.batch_done)
    correct = [[right for batch in outcomes for right in batch[index]["right"]] for index in range(len(attack.stages))]
    notes = [note for batch in outcomes for outcome in batch for note in outcome["notes"]]
    stages = {stage.name: sum(right) / len(right) for stage, right in zip(attack.stages, correct, strict=True)}
    broken = [[outcome.get("not_finite", (0, 0)) for outcome in batch] for batch in outcomes]
    return AttackResult(
        attack.name,
        tuple(map(bool, correct[-1])),
        sum(outcome["seconds"] for batch in outcomes for outcome in batch),
        tuple(dict.fromkeys([*notes, *square_warnings(stages)])),
        stages,
        # A stage does not attack what an earlier one broke, but gradients may fail on an example in every stage.
        sum(logits for batch in broken for logits, _ in batch),
        sum(max(gradients for _, gradients in batch) for batch in broken),
    )


def _key(batch: AttackTarget, attack: Attack, settings: AttackSettings) -> dict[str, Any]:
    """Return everything that decides the outcome of an attack on one batch."""
    return {
        "attack": attack.name,
        "stages": [dict(stage.key) for stage in attack.stages],
        "model": batch.fingerprint,
        "examples": fingerprint_of_tensors(batch.images, batch.labels),
        "standing": "".join(map(str, batch.correct.int().tolist())),
        "threat": [settings.threat.norm, settings.threat.eps],
        "seed": settings.seed,
        "pyautoattack": installed_version("pyautoattack"),
    }


def _attack_batch(
    batch: AttackTarget, attack: Attack, settings: AttackSettings, key: dict[str, Any], progress: _Progress
) -> list[dict[str, Any]]:
    """Run the stages one after another, each on the examples that the previous ones leave."""
    outcomes, correct = list[dict[str, Any]](), batch.correct
    for number, stage in enumerate(attack.stages):
        work = partial(_run_stage, replace(batch, correct=correct), stage, settings, progress)
        # The outcome of a single stage is that of the batch, which is cached itself.
        outcome = work() if len(attack.stages) == 1 else settings.result_cache.keep(key | {"stage": number}, work)
        correct = torch.tensor(outcome["right"], dtype=torch.bool)
        outcomes.append(outcome)
        progress.stage_done(stage, len(batch.labels))
    return outcomes


def _run_stage(batch: AttackTarget, stage: Stage, settings: AttackSettings, progress: _Progress) -> dict[str, Any]:
    started, correct, notes, broken = time.perf_counter(), batch.correct.clone(), list[str](), (0, 0)
    if correct.any():
        rows = correct.to(batch.images.device)
        images, labels = batch.images[rows].contiguous(), batch.labels[rows]
        with progress.during(stage, batch.model, len(batch.labels)):
            model = AttackedModel(batch.model, images, settings.threat)
            outcome = stage.attack(model, images, labels, settings.threat, settings.seed)
        correct[batch.correct] = outcome.correct & ~model.broken.cpu()
        notes = list(outcome.notes)
        broken = int(model.broken.sum()), model.broken_gradients
    right, seconds = correct.int().tolist(), time.perf_counter() - started
    return {"right": right, "notes": notes, "seconds": seconds} | ({"not_finite": list(broken)} if any(broken) else {})


@torch.no_grad()
def _classified_correctly(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    predictions = list[Tensor]()
    num_classes = 0
    for part in images.split(min(batch_size, len(images))):
        logits = check_logits(logits_at(model, part), part)
        predictions.append(logits.argmax(1))
        num_classes = logits.shape[1]
    check_labels(labels, images, num_classes)
    return (torch.cat(predictions) == labels).cpu()


class _Progress:
    """Progress of one attack in examples; inside a batch it follows the forward passes of the model."""

    def __init__(self, attack: Attack, total: int, report: OnProgress | None) -> None:
        self.name, self.total, self.report = attack.name, total, report
        self.forwards = sum(stage.forwards for stage in attack.stages)
        self._done = 0  # examples of finished batches
        self._stages_done = 0.0  # finished stages of the current batch, in examples
        self._last = -1  # reported last
        self._update(0.0)

    def batch_done(self, attack: str, done: int, total: int) -> None:
        """Report the examples of finished batches."""
        self._done, self._stages_done = done, 0.0
        self._update(0.0)

    def stage_done(self, stage: Stage, examples: int) -> None:
        """Report that a stage of the current batch has ended."""
        self._stages_done += examples * stage.forwards / self.forwards
        self._update(0.0)

    @contextmanager
    def during(self, stage: Stage, model: nn.Module, examples: int) -> Generator[None]:
        """Report progress while a stage runs on a batch of ``examples``."""
        if self.report is None:
            yield
            return
        passes = 0

        def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal passes
            passes += len(inputs[0])
            # The end is left to `stage_done`, since an attack may need more passes than expected.
            self._update(min(passes / self.forwards, 0.99 * examples * stage.forwards / self.forwards))

        handle = model.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()

    def _update(self, running: float) -> None:
        done = min(self.total, int(self._done + self._stages_done + running + 1e-9))
        if self.report is not None and done != self._last:
            self._last = done
            self.report(self.name, done, self.total)
