"""Clean and robust accuracy of a model, with what is needed to believe them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels
from kdiga.errors import InputError
from kdiga.evaluation.attacks import Attack, attack_by_name
from kdiga.intervals import clopper_pearson
from kdiga.modes import evaluating, frozen_parameters
from kdiga.provenance import provenance
from kdiga.types import ThreatModel

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AttackResult:
    """What one attack left standing.

    Args:
        attack: its name.
        correct: for each example, whether it is still classified correctly.
        seconds: wall time.
        notes: what the attack found suspicious.
    """

    attack: str
    correct: tuple[bool, ...]
    seconds: float
    notes: Sequence[str] = ()

    @property
    def accuracy(self) -> float:
        """Share of all examples still right, in [0, 1]."""
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the accuracy."""
        return clopper_pearson(sum(self.correct), len(self.correct))


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of one model under one threat model.

    Args:
        threat: norm and eps.
        results: one an attack, by name.
        seed: of the attacks.
        provenance: versions, hardware, date.
    """

    threat: ThreatModel
    results: Mapping[str, AttackResult]
    seed: int
    provenance: Mapping[str, Any]

    @property
    def examples(self) -> int:
        """How many examples were looked at."""
        return len(next(iter(self.results.values())).correct)

    def __getitem__(self, attack: str) -> float:
        """Return the accuracy under an attack, in [0, 1]."""
        return self.results[attack].accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "examples": self.examples,
            "seed": self.seed,
            "accuracy": {name: result.accuracy for name, result in self.results.items()},
            "interval_95": {name: list(result.interval) for name, result in self.results.items()},
            "seconds": {name: round(result.seconds, 1) for name, result in self.results.items()},
            "notes": {name: list(result.notes) for name, result in self.results.items() if result.notes},
            "correct": {name: [int(right) for right in result.correct] for name, result in self.results.items()},
            "provenance": dict(self.provenance),
        }


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
    progress: OnProgress | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy.

    Every attack sees only the examples that the model gets right, and its accuracy is the share of
    all examples that are still right afterwards. The model runs in eval mode where its parameters
    are, and is left as found.

    Args:
        model: maps images to logits (batch, num_classes).
        batches: pairs of images, float (batch, channel, height, width) in [0, 1], and int labels.
        eps: size of the ball in pixels in [0, 1]; a number or a fraction such as "8/255".
        norm: "linf" or "l2", in any case.
        attacks: among "clean", "fgsm", "pgd-STEPS" and "autoattack".
        examples: only the first so many; None for all.
        seed: of random starts.
        version: of AutoAttack: "standard", "plus" or "rand".
        progress: called with attack, examples done and examples to do.

    Raises:
        InputError: for an unknown attack, images or labels out of range, no example, or a model that
            returns something other than finite logits.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> report = evaluate(model, [(torch.rand(5, 1, 2, 2), torch.zeros(5).long())], eps="8/255", attacks=["fgsm"])
    >>> report.examples, 0 <= report["fgsm"] <= report["clean"] <= 1
    (5, True)
    """
    threat = ThreatModel.parse(norm, eps)
    chosen = _parse(attacks, version)
    images, labels = _gather(batches, examples)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images, labels = images.to(device), labels.to(device)
    with evaluating(model), frozen_parameters(model):
        started = time.perf_counter()
        clean = _clean(model, images, labels)
        results = {"clean": AttackResult("clean", tuple(clean.tolist()), time.perf_counter() - started)}
        for name, attack in chosen.items():
            started = time.perf_counter()
            correct = clean.clone()
            if clean.any():
                right = clean.to(device)
                correct[clean] = attack.survivors(
                    model, images[right].contiguous(), labels[right], threat=threat, seed=seed,
                    progress=_reporter(name, progress),
                )  # fmt: skip
            seconds = time.perf_counter() - started
            results[name] = AttackResult(name, tuple(correct.tolist()), seconds, tuple(attack.notes))
    return Evaluation(threat, results, seed, provenance(device))


def _parse(attacks: Sequence[str], version: str) -> dict[str, Attack]:
    if isinstance(attacks, str):
        attacks = attacks.split(",")
    chosen = {name.strip().lower(): attack_by_name(name, version=version) for name in attacks}
    return {name: attack for name, attack in chosen.items() if attack is not None}


def _gather(batches: Iterable[tuple[Tensor, Tensor]], examples: int | None) -> tuple[Tensor, Tensor]:
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


@torch.no_grad()
def _clean(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> Tensor:
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


def _reporter(name: str, progress: OnProgress | None) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    report(0, 1)
    return report
