"""Whether a teacher is worth distilling, before any training, by rules that docs/explain.md states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean
from typing import Any, Literal

from torch import Tensor, nn

from kdiga.analysis.explanation import MANY_ZEROS
from kdiga.analysis.measures import Measurements, ModelMeasures
from kdiga.analysis.preprocessing import (
    class_order_finding,
    clean_finding,
    logits_in_batches,
    preprocessing_finding,
)
from kdiga.analysis.ranking import ratio_interval
from kdiga.evaluation import AttackResult
from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.losses import entropy
from kdiga.model_state import device_of, evaluating
from kdiga.statistics import clopper_pearson, percent

ATTACK = "pgd-20"
FRAGILE, WEAK = 0.2, 0.4  # shares of clean accuracy that survive the attack
CURVED = 0.9  # remainder over rise above which the gradient predicts little


@dataclass(frozen=True)
class Suitability:
    """Measures of a teacher, and one finding per check."""

    measures: dict[str, Any]  # measures by name, as plain data
    findings: Sequence[Finding]  # findings of all checks

    @property
    def verdict(self) -> Literal["suitable", "doubtful", "unsuitable"]:
        """Unsuitable if any check failed, doubtful if any check warns, else suitable."""
        verdicts = {finding.verdict for finding in self.findings}
        return "unsuitable" if "failed" in verdicts else "doubtful" if "warning" in verdicts else "suitable"

    def sentence(self) -> str:
        """Return the verdict and its reasons in one line."""
        reasons = [
            f"{finding.name} {'failed' if finding.verdict == 'failed' else 'gives a warning'}"
            for finding in self.findings
            if finding.verdict != "passed"
        ]
        return f"{self.verdict}: {', '.join(reasons) or f'all {len(self.findings)} checks passed'}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        findings = [finding.to_dict() for finding in self.findings]
        return self.measures | {"findings": findings, "verdict": self.verdict, "sentence": self.sentence()}


def suitable(measurements: Measurements, teacher: nn.Module) -> Suitability:
    """Measure what a student would learn from a teacher, and check that the teacher gets the inputs of its training.

    The teacher runs in eval mode on its own device; its modes and parameters do not change.

    Raises:
        InputError: If labels are out of range, or logits are not finite.
    """
    eps = measurements.threat.eps
    num_classes = measurements.num_classes([teacher])
    (own,) = measurements.of_models([teacher])
    clean, attacked = measurements.attacked(teacher, ATTACK, measurements.result_cache.folder)
    device = device_of(teacher)
    images, labels = measurements.images.to(device), measurements.labels.to(device)
    with evaluating(teacher):
        logits = logits_in_batches(teacher, images)
    findings = [
        clean_finding(clean, num_classes),
        _robust(clean, attacked),
        _linearity(own),
        _gradients(own, eps),
        preprocessing_finding(teacher, images, labels),
        class_order_finding(logits.argmax(1), labels, num_classes),
    ]
    measures = _measures(own, clean, attacked, eps, measurements.seed)
    return Suitability(measures | {"entropy": _entropy(logits, attacked)}, findings)


def _entropy(logits: Tensor, attacked: AttackResult) -> dict[str, Any]:
    """Return the mean entropy of the teacher's answers where the attack fools it, and where it does not.

    A teacher that is certain of images which its student cannot learn makes the student memorise noise (Lee and Chung,
    2026, arXiv 2605.21999). Their set is that of students' failures. Without a student, this is the teacher's own.
    """
    values, robust = entropy(logits.double()).tolist(), attacked.correct
    hard = [value for value, right in zip(values, robust, strict=True) if not right]
    others = [value for value, right in zip(values, robust, strict=True) if right]
    return {
        "fooled": fmean(hard) if hard else None,
        "others": fmean(others) if others else None,
        "fooled_examples": len(hard),
        "largest": log(logits.shape[1]),
    }


def _measures(own: ModelMeasures, clean: Sequence[bool], robust: AttackResult, eps: float, seed: int) -> dict[str, Any]:
    return {
        "clean": fmean(clean),
        "clean_interval_95": list(clopper_pearson(sum(clean), len(clean))),
        "robust": {"attack": ATTACK, "accuracy": robust.accuracy, "interval_95": list(robust.interval)},
        "ratio": robust.accuracy / fmean(clean) if any(clean) else None,
        "linearity": {
            "mean": fmean(own["linearity"]),
            "change": fmean(own["change"]),
            "relative": _relative(own),
            "relative_interval_95": ratio_interval(own["linearity"], own["change"], seed),
        },
        "gradient": {
            "norm": fmean(own["gradient_norm"]),
            "eps_norm": eps * fmean(own["gradient_norm"]),
            "zero": sum(norm == 0 for norm in own["gradient_norm"]),
        },
    }


def _robust(clean: Sequence[bool], robust: AttackResult) -> Finding:
    right, standing = sum(clean), sum(robust.correct)
    if right == 0:
        return Finding("robust-accuracy", "failed", "right on no image, so nothing can be attacked.", {})
    share, (low, high) = standing / right, clopper_pearson(standing, right)
    verdict: Verdict = "failed" if high < FRAGILE else "warning" if share < WEAK else "passed"
    interval = f"[{percent(low, 0)}, {percent(high, 0)}]"
    message = f"{percent(robust.accuracy)} under {ATTACK}, {percent(share, 0)} {interval} of what it gets right without"
    message += {
        "failed": "; it has no robustness to pass on.",
        "warning": "; it has little robustness to pass on.",
        "passed": ".",
    }[verdict]
    return Finding("robust-accuracy", verdict, message, {"ratio": share, "interval_95": [low, high]})


def _relative(own: ModelMeasures) -> float | None:
    change = fmean(own["change"])
    return fmean(own["linearity"]) / change if change > 0 else None


def _linearity(own: ModelMeasures) -> Finding:
    gamma, change, relative = fmean(own["linearity"]), fmean(own["change"]), _relative(own)
    evidence = {"linearity": gamma, "change": change, "relative": relative}
    if relative is None:
        return Finding("linearity", "warning", "no search found any rise of the loss within the ball.", evidence)
    deviation = f"the loss deviates from a linear one by up to {gamma:.2f} nats"
    message = f"{deviation}, {percent(relative, 0)} of its largest rise ({change:.2f})"
    curved = relative > CURVED
    message += "; its gradients predict little of the loss in the ball." if curved else "."
    return Finding("linearity", "warning" if curved else "passed", message, evidence)


def _gradients(own: ModelMeasures, eps: float) -> Finding:
    zeros, examples = sum(norm == 0 for norm in own["gradient_norm"]), len(own["gradient_norm"])
    length = eps * fmean(own["gradient_norm"])
    verdict: Verdict = "failed" if zeros * 2 > examples else "warning" if zeros > MANY_ZEROS * examples else "passed"
    message = (
        f"eps times the dual norm of the input gradient is {length:.2f} nats; exactly zero on {zeros} of {examples}"
    )
    message += "." if verdict == "passed" else ", where there is nothing to align with."
    return Finding("input-gradients", verdict, message, {"eps_norm": length, "zero": zeros, "examples": examples})
