"""What an evaluation found, example by example, with intervals and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kdiga.display import Displayed, Summary
from kdiga.evaluation.masking.finding import Finding
from kdiga.statistics import clopper_pearson, percent
from kdiga.types import ThreatModel

BY_ATTACK = ("accuracy", "interval_95", "worst_class", "seconds", "notes", "stages", "correct")
"""Parts of an evaluation as plain data that have an entry per attack."""


def joined_findings(findings: Iterable[dict[str, Any]], others: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return findings as plain data, those of the others in place of those with equal names."""
    return list({one["name"]: one for one in (*findings, *others)}.values())


@dataclass(frozen=True)
class AttackResult:
    """The result of one attack.

    Args:
        attack: Name of the attack.
        correct: Whether each example is still classified correctly.
        seconds: Duration of the work, added over all processes that shared it.
        notes: Warnings of the attack.
        stages: Accuracy after each stage by its name: AutoAttack's attacks, PGD's restarts.
        broken: Number of examples with logits in the ball that are not finite. They count as misclassified.
        broken_gradients: Number of examples with an input gradient that is not finite: the attack learns nothing there.
    """

    attack: str
    correct: tuple[bool, ...]
    seconds: float
    notes: Sequence[str] = ()
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    broken: int = 0
    broken_gradients: int = 0

    @property
    def accuracy(self) -> float:
        """Share of all examples that are still classified correctly, in [0, 1]."""
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the accuracy."""
        return clopper_pearson(sum(self.correct), len(self.correct))


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy on the examples of one class.

    Args:
        label: Number of the class.
        accuracy: Share of its examples that are still classified correctly, in [0, 1].
        examples: Number of its examples.
    """

    label: int
    accuracy: float
    examples: int


def lowest_class(labels: Sequence[int], correct: Sequence[float]) -> ClassAccuracy | None:
    """Return the class with the lowest mean of ``correct``, the first of equals; None for a single class."""
    by_class = dict[int, list[float]]()
    for label, right in zip(labels, correct, strict=False):
        by_class.setdefault(label, []).append(right)
    if len(by_class) < 2:
        return None
    found = (
        ClassAccuracy(label, sum(by_class[label]) / len(by_class[label]), len(by_class[label]))
        for label in sorted(by_class)
    )
    return min(found, key=lambda one: one.accuracy)


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Accuracy of a model under common corruptions.

    Args:
        strengths_of: "CIFAR-10-C" or "ImageNet-C", of which the strengths of the severities are.
        correct: For each corruption and severity, from 1, whether each example is classified correctly.
        labels: Class of each example.
    """

    strengths_of: str
    correct: Mapping[str, Sequence[Sequence[bool]]]
    labels: Sequence[int]

    @property
    def accuracy(self) -> dict[str, list[float]]:
        """Accuracy at severity 1 to 5, by corruption, in [0, 1]."""
        return {name: [sum(right) / len(right) for right in found] for name, found in self.correct.items()}

    @property
    def shares(self) -> list[float]:
        """For each example, the share of corruptions and severities at which it is classified correctly."""
        columns = [right for found in self.correct.values() for right in found]
        return [sum(right) / len(right) for right in zip(*columns, strict=True)]

    @property
    def mean(self) -> float:
        """Mean accuracy over corruptions and severities, in [0, 1]."""
        return sum(self.shares) / len(self.shares)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean: Clopper-Pearson's, too wide, as an example's share varies less than 0 or 1."""
        return clopper_pearson(round(sum(self.shares)), len(self.shares))

    @property
    def worst_class(self) -> ClassAccuracy | None:
        """The class with the lowest mean accuracy; None for a single class."""
        return lowest_class(self.labels, self.shares)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the outcome of each example as plain data."""
        worst = self.worst_class
        return {
            "strengths_of": self.strengths_of,
            "mean": self.mean,
            "interval_95": list(self.interval),
            "worst_class": None if worst is None else asdict(worst),
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True, repr=False)
class Evaluation(Displayed):
    """Accuracies of one model under one threat model.

    Args:
        threat: Norm and eps.
        results: Results by the name of the attack.
        seed: Seed of the attacks.
        provenance: Versions, hardware, date.
        findings: Reasons to doubt all accuracies: the model ignores its input, is randomised, or returns
            values that are not finite. With ``checks``, the findings of all checks for masked gradients.
        labels: Class of each example; empty where it is not known.
        about: Description of model and data as plain data: name, architecture, parameters, fingerprints.
        corruptions: Accuracy under common corruptions; None if it was not measured.
    """

    threat: ThreatModel
    results: Mapping[str, AttackResult]
    seed: int
    provenance: Mapping[str, Any]
    findings: Sequence[Finding] = ()
    labels: Sequence[int] = ()
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    corruptions: CorruptionAccuracy | None = None

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(next(iter(self.results.values())).correct)

    def __getitem__(self, attack: str) -> float:
        """Return the accuracy under an attack, in [0, 1]."""
        return self.results[attack].accuracy

    def worst_class(self, attack: str) -> ClassAccuracy | None:
        """Return the class with the lowest accuracy under an attack, the first of equals; None for a single class."""
        return lowest_class(self.labels, self.results[attack].correct)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        results = self.results.items()
        worst = {name: self.worst_class(name) for name in self.results}
        return {
            **self.about,
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "examples": self.examples,
            "seed": self.seed,
            "accuracy": {name: result.accuracy for name, result in results},
            "interval_95": {name: list(result.interval) for name, result in results},
            "worst_class": {name: asdict(one) for name, one in worst.items() if one is not None},
            "seconds": {name: round(result.seconds, 1) for name, result in results},
            "notes": {name: list(result.notes) for name, result in results if result.notes},
            "stages": {name: dict(result.stages) for name, result in results if len(result.stages) > 1},
            "correct": {name: [int(right) for right in result.correct] for name, result in results},
            "findings": [finding.to_dict() for finding in self.findings],
            "provenance": dict(self.provenance),
            **({} if self.corruptions is None else {"corruptions": self.corruptions.to_dict()}),
        }

    def _summary(self) -> Summary:
        rows = list[dict[str, Any]]()
        for name, result in self.results.items():
            low, high = result.interval
            row = {"attack": name, "accuracy": result.accuracy, "low": low, "high": high, "seconds": result.seconds}
            rows.append(row)
        title = f"{self.about.get('model', 'a model')}, {self.threat.norm} eps {self.threat.eps:.4g}, {self.examples} "
        title += f"examples, seed {self.seed}"
        doubts = [finding for finding in self.findings if finding.verdict in ("failed", "warning")]
        if doubts:
            title += f"; doubtful: {', '.join(finding.name for finding in doubts)}"
        sentences = [f"{one.name} {one.verdict}: {one.message}" for one in doubts]
        if self.corruptions is not None:
            sentences.append(f"mean accuracy under common corruptions: {percent(self.corruptions.mean)}")
        return Summary(title, rows, sentences=sentences)


@dataclass(frozen=True)
class EpsSweep:
    """Accuracy at several eps.

    Args:
        attack: Name of the attack.
        eps: Values of eps, increasing.
        correct: For each eps, whether each example is still classified correctly.
    """

    attack: str
    eps: Sequence[float]
    correct: Sequence[Sequence[bool]]

    @property
    def accuracy(self) -> list[float]:
        """Share of all examples that are still classified correctly at each eps, in [0, 1]."""
        return [sum(right) / len(right) for right in self.correct]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, with 95 % Clopper-Pearson intervals."""
        return {
            "attack": self.attack,
            "eps": list(self.eps),
            "accuracy": self.accuracy,
            "interval_95": [list(clopper_pearson(sum(right), len(right))) for right in self.correct],
            "correct": [[int(one) for one in right] for right in self.correct],
        }
