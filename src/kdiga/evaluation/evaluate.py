"""Clean and robust accuracy of a model, at one eps or as a curve over eps."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import torch
from torch import Tensor, nn

from kdiga.arguments import checked
from kdiga.checks import check_images, check_labels, images_and_labels
from kdiga.errors import InputError, KdigaWarning
from kdiga.evaluation.accuracies import AttackResult, EpsSweep, Evaluation
from kdiga.evaluation.masking import CHECKS, Finding, check_masking
from kdiga.evaluation.named_attacks import Attack, attack_by_name
from kdiga.evaluation.run_attack import AttackTarget, run_attack
from kdiga.evaluation.stages import AttackSettings
from kdiga.model_state import evaluating, frozen_parameters
from kdiga.out_of_memory import out_of_memory_as_error
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

P = ParamSpec("P")

BATCH_SIZE = 500  # examples attacked and cached together
MOST_SEEDS = 2**63  # PyTorch's limit
ALWAYS = ("uses-input", "deterministic", "batch-independent", "logits")  # masking checks that every evaluation runs
CHECKED = 50  # examples that they use


@checked
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    eps: float | str | None = None,
    norm: str | None = None,
    threat: ThreatModel | str | None = None,
    attacks: Sequence[str] = ("clean", "pgd-20"),
    examples: int | None = None,
    seed: int = 0,
    version: str = "standard",
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy.

    Every attack gets only the correctly classified examples, and its accuracy is the share of all examples that are
    still classified correctly afterwards. The model runs in eval mode, where its parameters are, and is left
    unchanged.

    With a folder, the outcome of each stage of each attack on each batch is cached there as soon as it is known. The
    same call then continues where it was interrupted, a call with more attacks or more examples adds to the cache,
    and several processes with the same call share the work. The result is the same in every case.

    Args:
        model: Network from images to logits (batch, num_classes).
        batches: Pairs of images, float (batch, channel, height, width) in [0, 1], and int labels; or dicts of them.
        eps: Size of the ball in pixels in [0, 1]; a number or a fraction such as "8/255", which is the default.
        norm: "linf", which is the default, or "l2", in any case.
        threat: Threat model in place of both: a :class:`kdiga.ThreatModel`, or text such as "linf 8/255".
        attacks: Names among "clean", "fgsm", "pgd-STEPS", "cw-STEPS", both with "xRESTARTS", and "autoattack".
        examples: Number of examples, the first ones; None for all.
        seed: Seed of random starts.
        version: Version of AutoAttack: "standard", "plus" or "rand".
        batch_size: Number of examples attacked together, at least 1. Random starts depend on it.
        folder: Folder of cached outcomes; None caches nothing.
        progress: Function called with the attack, examples done and examples in total.

    Raises:
        InputError: If an attack is unknown, images or labels are out of range, there is no example, or the model does
            not return finite logits.
        OutOfMemoryError: If memory runs out; it says what to reduce.

    Warns:
        KdigaWarning: If a cheap check finds that the accuracies are worthless: the model ignores its input, is random,
            depends on the rest of the batch, or returns probabilities. The result contains the finding, too.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> report = evaluate(model, [(torch.rand(5, 1, 2, 2), torch.zeros(5).long())], eps="8/255", attacks=["fgsm"])
    >>> report.examples, 0 <= report["fgsm"] <= report["clean"] <= 1
    (5, True)
    """
    chosen = _parse(attacks, version)
    if not 0 <= seed < MOST_SEEDS:
        raise InputError(f"seed was {seed!r}; it must be a whole number from 0 to {MOST_SEEDS - 1}.")
    settings = AttackSettings(_threat(threat, norm, eps), seed, batch_size, ResultCache(folder), progress)
    images, labels = _gather(batches, examples)
    with _ready_to_attack(model, len(images), batch_size):
        started = time.perf_counter()
        target = _target(model, images, labels, settings)
        clean = AttackResult("clean", tuple(target.correct.tolist()), time.perf_counter() - started)
        results = {"clean": clean} | {attack.name: run_attack(target, attack, settings) for attack in chosen}
        findings = [*_findings(target, settings), *_not_finite(list(results.values()))]
    about, labels = provenance(target.images.device), tuple(target.labels.tolist())
    return Evaluation(settings.threat, results, seed, about, findings, labels)


def warning_of_findings(function: Callable[P, Evaluation]) -> Callable[P, Evaluation]:
    """Return the function with a warning for each finding that makes its accuracies worthless.

    ``kdiga.evaluate`` is :func:`evaluate` with these warnings. Commands print the findings themselves.
    """

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> Evaluation:
        report = function(*arguments, **options)
        for finding in report.findings:
            if finding.verdict == "failed" or finding.name == "logits":
                warnings.warn(f"{finding.name}: {finding.message}", KdigaWarning, stacklevel=2)
        return report

    return run


def sweep(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    eps_values: Sequence[float],
    norm: str = "linf",
    attack: str = "pgd-20",
    examples: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> EpsSweep:
    """Measure the accuracy at each eps under one attack; at eps 0 it is the clean accuracy.

    An example that is fooled at one eps counts as fooled at every larger one and is not attacked again, though the
    same attack might miss it there: the true curve never rises.

    Values of eps increase from 0 or more. The attack is any but "clean"; progress gets its name and eps. The other
    arguments are those of :func:`kdiga.evaluate`.

    Raises:
        InputError: If eps values do not increase from 0 or more, and as :func:`kdiga.evaluate` does.
    """
    threats = [ThreatModel.parse(norm, eps) for eps in eps_values]
    increasing = all(first.eps < second.eps for first, second in itertools.pairwise(threats))
    if not threats or not increasing:
        raise InputError(f"eps values were {list(eps_values)}; give at least one, each larger than the one before.")
    chosen = attack_by_name(attack)
    if chosen is None:
        raise InputError("the attack of a sweep was 'clean'; name one that uses eps, for example pgd-20.")
    settings = AttackSettings(threats[0], seed, batch_size, ResultCache(folder), progress)
    correct = list[Sequence[bool]]()
    images, labels = _gather(batches, examples)
    with _ready_to_attack(model, len(images), batch_size):
        target = _target(model, images, labels, settings)
        for threat in threats:
            if threat.eps > 0:
                own = replace(settings, threat=threat).labelled(f"at eps {threat.eps:.3g}")
                target = replace(target, correct=torch.tensor(run_attack(target, chosen, own).correct))
            correct.append(tuple(target.correct.tolist()))
    return EpsSweep(chosen.name, [threat.eps for threat in threats], correct)


def _threat(threat: ThreatModel | str | None, norm: str | None, eps: float | str | None) -> ThreatModel:
    if threat is None:
        default = ThreatModel()
        return ThreatModel.parse(norm or default.norm, default.eps if eps is None else eps)
    if norm is not None or eps is not None:
        raise InputError("threat was given together with norm or eps; give threat, or the two others.")
    return ThreatModel.of(threat)


@contextmanager
def _ready_to_attack(model: nn.Module, examples: int, batch_size: int) -> Generator[None]:
    """Put the model in eval mode, freeze its parameters, and say what to reduce if memory runs out."""
    if batch_size < 1:
        raise InputError(f"batch_size was {batch_size!r}; it must be at least 1.")
    remedy = f"batches of {min(batch_size, examples)} images were too large; reduce batch_size (--batch-size)."
    with out_of_memory_as_error(remedy), evaluating(model), frozen_parameters(model):
        yield


def _target(model: nn.Module, images: Tensor, labels: Tensor, settings: AttackSettings) -> AttackTarget:
    target = AttackTarget.of(model, images, labels, batch_size=settings.batch_size, fingerprint="")
    if settings.result_cache.folder is None:
        return target
    return replace(target, fingerprint=fingerprint_of_model(model, target.images))


def _findings(target: AttackTarget, settings: AttackSettings) -> list[Finding]:
    """Return the findings that make every accuracy of a model worthless; they take a few forward passes."""
    found = check_masking(
        target.model,
        target.images,
        target.labels,
        threat=settings.threat,
        seed=settings.seed,
        examples=CHECKED,
        checks=[check for check in CHECKS if check.name in ALWAYS],
        fingerprint=target.fingerprint or "unnamed",
    )
    return [finding for finding in found if finding.verdict in ("failed", "warning")]


def _not_finite(results: Sequence[AttackResult]) -> list[Finding]:
    """Return the finding of values that were not finite under attack, if there were any."""
    logits, gradients = max(one.broken for one in results), max(one.broken_gradients for one in results)
    if not logits and not gradients:
        return []
    message = (
        f"under attack the logits of {logits} and the input gradients of {gradients} of {len(results[0].correct)} "
        "examples were not finite; such logits count as misclassified, and without a gradient an attack is too weak. "
        "Mend the model: a division by zero, a root or a logarithm of zero, an overflow."
    )
    return [Finding("finite", "failed", message, {"logits": logits, "gradients": gradients})]


def _parse(attacks: Sequence[str], version: str) -> list[Attack]:
    if isinstance(attacks, str):
        attacks = attacks.split(",")
    for name in attacks:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"an attack was {name!r:.60}; it must be the name of one, such as 'pgd-20'.")
    chosen = (attack_by_name(name, version=version) for name in attacks)
    return list({attack.name: attack for attack in chosen if attack is not None}.values())


def _gather(batches: Iterable[tuple[Tensor, Tensor]], examples: int | None) -> tuple[Tensor, Tensor]:
    """Return the first examples of some batches, checked."""
    if examples is not None and examples < 1:
        raise InputError(f"examples was {examples!r}; it must be at least 1.")
    images, labels, count = list[Tensor](), list[Tensor](), 0
    if not hasattr(batches, "__iter__"):
        images_and_labels(batches)  # raises the error of a batch of another form
    for batch in batches:
        part, answers = images_and_labels(batch)
        check_images(part)
        check_labels(answers, part)
        images.append(part.clamp(0, 1))
        labels.append(answers.long())
        count += len(part)
        if examples is not None and count >= examples:
            break
    if count == 0:
        raise InputError("the data was empty; give at least one batch of images and labels.")
    return torch.cat(images)[:examples], torch.cat(labels)[:examples]
