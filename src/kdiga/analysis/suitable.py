"""Is a teacher worth distilling? Asked before any training, answered by rules that docs/explain.md states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdiga.analysis.diagnosis import MANY_ZEROS
from kdiga.analysis.explain import check_ball, check_same_shape
from kdiga.analysis.measures import OfModel
from kdiga.analysis.preprocessing import class_order_finding, clean_finding, preprocessing_finding
from kdiga.analysis.resampling import ratio_interval
from kdiga.analysis.work import Work
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.evaluation import AttackResult
from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.model_state import device_of, evaluating
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.statistics import clopper_pearson
from kdiga.types import ThreatModel

ATTACK = "pgd-20"
FRAGILE, WEAK = 0.2, 0.4  # shares of clean accuracy that survive the attack
CURVED = 0.9  # remainder over rise from which on the gradient foretells little


@dataclass(frozen=True)
class Suitability:
    """What was found about a teacher.

    Args:
        measures: by name, plain data.
        findings: one a check.
    """

    measures: dict[str, Any]
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Literal["suitable", "doubtful", "unsuitable"]:
        """Unsuitable if any check failed, doubtful if any warns, else suitable."""
        verdicts = {finding.verdict for finding in self.findings}
        return "unsuitable" if "failed" in verdicts else "doubtful" if "warning" in verdicts else "suitable"

    def sentence(self) -> str:
        """Return the verdict in one line, with the checks it rests on."""
        told = [
            f"{finding.name} {'failed' if finding.verdict == 'failed' else 'gives a warning'}"
            for finding in self.findings
            if finding.verdict != "passed"
        ]
        return f"{self.verdict}: {', '.join(told) or f'all {len(self.findings)} checks passed'}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        findings = [finding.to_dict() for finding in self.findings]
        return self.measures | {"findings": findings, "verdict": self.verdict, "sentence": self.sentence()}


def suitable(
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    search: WorstCaseSearch | None = None,
    seed: int = 0,
    result_cache: ResultCache | None = None,
    on_progress: OnProgress | None = None,
) -> Suitability:
    """Measure what distillation would take from a teacher, and check that it is given what it was trained on.

    Args:
        teacher: maps images to logits; runs in eval mode on its device and is left as found.
        images: float (batch, channel, height, width), pixels in [0, 1].
        labels: int64 (batch,).
        threat: the ball; eps above 0.
        search: for its worst images; None is its defaults.
        seed: of random starts.
        result_cache: where finished portions are kept; None keeps them for this call alone.
        on_progress: told the task, examples done and examples in all.

    Raises:
        InputError: for no example, an eps of 0, images or labels out of range, or logits that are not finite.
    """
    check_ball(threat)
    num_classes = check_same_shape([teacher], images, labels)
    work = Work(
        images,
        labels.long(),
        threat=threat,
        search=search or WorstCaseSearch(),
        seed=seed,
        result_cache=result_cache or ResultCache(),
        on_progress=on_progress,
    )
    (own,) = work.of_models([teacher])
    clean, left = work.attacked(teacher, ATTACK, work.result_cache.folder)
    pixels, answers = images.to(device_of(teacher)), labels.long().to(device_of(teacher))
    with evaluating(teacher), torch.no_grad():
        predictions = torch.cat([teacher(part).argmax(1) for part in pixels.split(250)])
    findings = [
        clean_finding(clean, num_classes),
        _robust(clean, left),
        _linearity(own),
        _gradients(own, threat.eps),
        preprocessing_finding(teacher, pixels, answers),
        class_order_finding(predictions, answers, num_classes),
    ]
    return Suitability(_measures(own, clean, left, threat.eps, seed), findings)


def _measures(own: OfModel, clean: Sequence[bool], left: AttackResult, eps: float, seed: int) -> dict[str, Any]:
    interval = ratio_interval(own["linearity"], own["change"], seed)
    return {
        "clean": fmean(clean),
        "clean_interval_95": list(clopper_pearson(sum(clean), len(clean))),
        "robust": {"attack": ATTACK, "accuracy": left.accuracy, "interval_95": list(left.interval)},
        "ratio": left.accuracy / fmean(clean) if any(clean) else None,
        "linearity": {
            "mean": fmean(own["linearity"]),
            "change": fmean(own["change"]),
            "relative": _relative(own),
            "relative_interval_95": None if interval is None else list(interval),
        },
        "gradient": {
            "norm": fmean(own["gradient_norm"]),
            "eps_norm": eps * fmean(own["gradient_norm"]),
            "zero": sum(norm == 0 for norm in own["gradient_norm"]),
        },
    }


def _robust(clean: Sequence[bool], left: AttackResult) -> Finding:
    right, standing = sum(clean), sum(left.correct)
    if right == 0:
        return Finding("robust-accuracy", "failed", "right on no image, so nothing can be attacked.", {})
    share, (low, high) = standing / right, clopper_pearson(standing, right)
    verdict: Verdict = "failed" if high < FRAGILE else "warning" if share < WEAK else "passed"
    message = f"{left.accuracy:.1%} under {ATTACK}, {share:.0%} [{low:.0%}, {high:.0%}] of what it gets right without"
    message += {
        "failed": "; it has no robustness to pass on.",
        "warning": "; it has little robustness to pass on.",
        "passed": ".",
    }[verdict]
    return Finding("robust-accuracy", verdict, message, {"ratio": share, "interval_95": [low, high]})


def _relative(own: OfModel) -> float | None:
    change = fmean(own["change"])
    return fmean(own["linearity"]) / change if change > 0 else None


def _linearity(own: OfModel) -> Finding:
    gamma, change, relative = fmean(own["linearity"]), fmean(own["change"]), _relative(own)
    evidence = {"linearity": gamma, "change": change, "relative": relative}
    if relative is None:
        return Finding("linearity", "warning", "no search found any rise of the loss within the ball.", evidence)
    message = (
        f"the loss leaves its tangent by up to {gamma:.2f} nats, {relative:.0%} of its largest rise ({change:.2f})"
    )
    curved = relative > CURVED
    message += "; its gradients foretell little of what the ball holds." if curved else "."
    return Finding("linearity", "warning" if curved else "passed", message, evidence)


def _gradients(own: OfModel, eps: float) -> Finding:
    zeros, examples = sum(norm == 0 for norm in own["gradient_norm"]), len(own["gradient_norm"])
    length = eps * fmean(own["gradient_norm"])
    verdict: Verdict = "failed" if zeros * 2 > examples else "warning" if zeros > MANY_ZEROS * examples else "passed"
    message = (
        f"eps times the dual norm of the input gradient is {length:.2f} nats; exactly zero on {zeros} of {examples}"
    )
    message += "." if verdict == "passed" else ", where there is nothing to align with."
    return Finding("input-gradients", verdict, message, {"eps_norm": length, "zero": zeros, "examples": examples})
