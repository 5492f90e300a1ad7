"""Clean and robust accuracy of a model, with what is needed to believe them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels
from kdiga.errors import InputError
from kdiga.evaluation.attacks import Attack, attack_by_name
from kdiga.evaluation.chunks import Target, attack_all
from kdiga.evaluation.masking import CHECKS, Finding, check_masking
from kdiga.evaluation.result import AttackResult, Evaluation
from kdiga.model_state import evaluating, frozen_parameters
from kdiga.out_of_memory import out_of_memory_as_error
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

BATCH_SIZE = 500  # examples attacked, and kept, together
ALWAYS = ("uses-input", "deterministic")  # checks that are made whether asked for or not
LOOKED_AT = 50  # examples by them


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    eps: float | str = 8 / 255,
    norm: str = "linf",
    attacks: Sequence[str] = ("clean", "pgd-20"),
    examples: int | None = None,
    seed: int = 0,
    version: str = "standard",
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy.

    Every attack sees only the examples that the model gets right, and its accuracy is the share of
    all examples that are still right afterwards. The model runs in eval mode where its parameters
    are, and is left as found.

    With a folder, what each stage of each attack came to on each batch is kept there as soon as it is
    known. The same call then goes on where it was interrupted, one that asks for more attacks or more
    examples adds to what is there, and several processes that make the call share the work. The
    answer is the same in every case.

    Args:
        model: maps images to logits (batch, num_classes).
        batches: pairs of images, float (batch, channel, height, width) in [0, 1], and int labels.
        eps: size of the ball in pixels in [0, 1]; a number or a fraction such as "8/255".
        norm: "linf" or "l2", in any case.
        attacks: among "clean", "fgsm", "pgd-STEPS", "cw-STEPS", both with "xRESTARTS", and "autoattack".
        examples: only the first so many; None for all.
        seed: of random starts.
        version: of AutoAttack: "standard", "plus" or "rand".
        batch_size: examples attacked together, at least 1. Random starts depend on it.
        folder: where finished portions are kept; None keeps none.
        progress: called with attack, examples done and examples to do.

    Raises:
        InputError: for an unknown attack, images or labels out of range, no example, or a model that
            returns something other than finite logits.
        OutOfMemoryError: saying what to reduce.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> report = evaluate(model, [(torch.rand(5, 1, 2, 2), torch.zeros(5).long())], eps="8/255", attacks=["fgsm"])
    >>> report.examples, 0 <= report["fgsm"] <= report["clean"] <= 1
    (5, True)
    """
    threat = ThreatModel.parse(norm, eps)
    chosen = _parse(attacks, version)
    if batch_size < 1:
        raise InputError(f"batch_size was {batch_size!r}; it must be at least 1.")
    images, labels = gather(batches, examples)
    remedy = f"batches of {min(batch_size, len(images))} images were too large; reduce batch_size (--batch-size)."
    with out_of_memory_as_error(remedy), evaluating(model), frozen_parameters(model):
        started = time.perf_counter()
        target = Target.of(model, images, labels, batch_size, keyed=folder is not None)
        clean = AttackResult("clean", tuple(target.standing.tolist()), time.perf_counter() - started)
        results, result_cache = {"clean": clean}, ResultCache(folder)
        for attack in chosen:
            results[attack.name] = attack_all(
                target,
                attack,
                threat=threat,
                seed=seed,
                batch_size=batch_size,
                result_cache=result_cache,
                progress=progress,
            )
        findings = _doubts(target, threat, seed)
    return Evaluation(threat, results, seed, provenance(target.images.device), findings)


def _doubts(target: Target, threat: ThreatModel, seed: int) -> list[Finding]:
    """Return what makes every accuracy of a model worthless; a few forward passes tell."""
    found = check_masking(
        target.model,
        target.images,
        target.labels,
        threat=threat,
        seed=seed,
        examples=LOOKED_AT,
        checks=[check for check in CHECKS if check.name in ALWAYS],
        fingerprint=target.fingerprint or "unnamed",
    )
    return [finding for finding in found if finding.verdict in ("failed", "warning")]


def _parse(attacks: Sequence[str], version: str) -> list[Attack]:
    if isinstance(attacks, str):
        attacks = attacks.split(",")
    chosen = (attack_by_name(name, version=version) for name in attacks)
    return list({attack.name: attack for attack in chosen if attack is not None}.values())


def gather(batches: Iterable[tuple[Tensor, Tensor]], examples: int | None) -> tuple[Tensor, Tensor]:
    """Return the first so many examples of some batches, checked.

    Raises:
        InputError: for no example, or images or labels out of range.
    """
    if examples is not None and examples < 1:
        raise InputError(f"examples was {examples!r}; it must be at least 1.")
    images, labels, count = list[Tensor](), list[Tensor](), 0
    for part, answers in batches:
        check_images(part)
        check_labels(answers, part)
        images.append(part)
        labels.append(answers.long())
        count += len(part)
        if examples is not None and count >= examples:
            break
    if count == 0:
        raise InputError("the data held no example; give at least one batch of images and labels.")
    return torch.cat(images)[:examples], torch.cat(labels)[:examples]
