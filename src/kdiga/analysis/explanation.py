"""The explanation of robustness transfer: measures of a teacher and its students, findings, and sentences.

Fixed rules turn the numbers and their intervals into sentences; docs/explain.md states the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kdiga.analysis.model_explanation import ModelExplanation, StudentExplanation
from kdiga.analysis.ranking import FEWEST_MODELS, ConfidenceInterval, Ranking, mean_interval, rank, ratio_interval
from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.results.attack_names import attack_name
from kdiga.statistics import clopper_pearson, paired_difference, percent
from kdiga.types import ThreatModel

MANY_ZEROS = 0.05  # share of examples without a gradient above which means over the rest are doubtful
ALIGNED, UNALIGNED = 0.5, 0.25  # cosines above which gradients point along the teacher's, and below which they do not
NEARLY_ALL, HALF = 0.9, 0.5  # shares of the teacher's robust accuracy
SIGNIFICANCE = 0.05  # p-value below which a measure orders students
TERMS = {
    "linearity": "the student's own non-linearity",
    "teacher_gradient": "the teacher's gradient",
    "gradient_distance": "the distance between the gradients",
    "clean_gap": "the gap on the clean images",
    "student_linearity": "the student's non-linearity",
    "teacher_linearity": "the teacher's non-linearity",
}


@dataclass(frozen=True)
class Explanation:
    """Measures of a teacher and its students on the same images."""

    threat: ThreatModel  # the ball
    attack: str  # attack of the robust accuracy
    seed: int  # seed of attacks and resamples
    num_classes: int  # number of classes of all models
    teacher: ModelExplanation  # measures of the teacher
    students: Sequence[StudentExplanation]  # measures of at least one student

    @property
    def teacher_is_robust(self) -> bool:
        """Whether the interval of the teacher's robust accuracy is above chance, so there is robustness to transfer."""
        low, _ = clopper_pearson(sum(self.teacher.robust), len(self.teacher.robust))
        return low > 1 / self.num_classes

    def robustness_ratio(self, student: StudentExplanation) -> tuple[float | None, ConfidenceInterval | None]:
        """Return the student's robust accuracy over the teacher's, and its 95 % interval over images.

        Both are None if the teacher has no robustness.
        """
        if not self.teacher_is_robust:
            return None, None
        ratio = fmean(student.robust) / fmean(self.teacher.robust)
        return ratio, ratio_interval(student.robust, self.teacher.robust, self.seed)

    def rankings(self) -> list[Ranking]:
        """Return how each bound and each of its terms ranks the students, compared with the attack."""
        measures = [_ranked_measures(student) for student in self.students]
        by_name = {name: [values[name] for values in measures] for name in measures[0]}
        return rank(by_name, [student.robust for student in self.students], self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, the teacher first in the models."""
        models = [self.teacher.to_dict(self.attack, self.seed)]
        for student in self.students:
            ratio, interval = self.robustness_ratio(student)
            found = {"robustness_kept": ratio, "robustness_kept_interval_95": interval}
            models.append(student.to_dict(self.attack, self.seed) | found)
        return {
            "examples": len(self.teacher.clean),
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "attack": self.attack,
            "seed": self.seed,
            "models": models,
            "ranking": [ranking.to_dict() for ranking in self.rankings()],
            "findings": [finding.to_dict() for finding in diagnose(self)],
            "sentences": transfer_sentences(self),
            "reasons": reason_sentences(self),
        }


def _ranked_measures(student: StudentExplanation) -> dict[str, Sequence[float | None]]:
    """Return the measures that can rank students, larger for more expected robustness."""
    smaller_is_better = {
        "student bound": student.student_bound.values,
        "transfer bound": student.transfer_bound.values,
        "linearity": student.linearity,
        "gradient distance": student.distance,
        "gradient norm": student.gradient_norm,
        "measured loss change": student.student_bound.measured,
    }
    measures: dict[str, Sequence[float | None]] = {
        name: [-value for value in values] for name, values in smaller_is_better.items()
    }
    return measures | {"cosine": student.cosine}


def diagnose(explanation: Explanation) -> list[Finding]:
    """Return whether all models have gradients, the teacher has robustness to transfer, and the bounds hold."""
    models = [explanation.teacher, *explanation.students]
    findings = [_zero_gradients(model) for model in models]
    right, examples = sum(explanation.teacher.robust), len(explanation.teacher.robust)
    robust = explanation.teacher_is_robust
    message = f"the teacher is right on {right} of {examples} images under {attack_name(explanation.attack)}"
    message += "." if robust else ", which is not above chance: there is no robustness that a student could keep."
    evidence = {"robust": right / examples, "chance": 1 / explanation.num_classes}
    findings.append(Finding("teacher-robust", "passed" if robust else "failed", message, evidence))
    bounds = [bound for student in explanation.students for bound in (student.student_bound, student.transfer_bound)]
    violations = sum(bound.violations for bound in bounds)
    message = (
        "no bound is below what was measured; gamma includes the attacked images, so this tests the software alone."
        if violations == 0
        else f"{violations} bounds are below what was measured, an error of kdiga: do not use these numbers."
    )
    findings.append(Finding("bounds-hold", "failed" if violations else "passed", message, {"violations": violations}))
    return findings


def _zero_gradients(model: ModelExplanation) -> Finding:
    zeros, examples = model.zero_gradients, len(model.gradient_norm)
    evidence = {"model": model.name, "zero": zeros, "examples": examples}
    found = f"{model.name} has an input gradient of exactly zero on {zeros} of {examples} images"
    verdict: Verdict = "passed"
    if zeros == examples:
        verdict = "failed"
        found += ": it ignores its input, cannot be differentiated, or is saturated; its gradients say nothing"
    elif zeros > MANY_ZEROS * examples:
        verdict = "warning"
        found += "; cosines leave these out, and gradient attacks cannot start there"
    return Finding("zero-gradients", verdict, f"{found}.", evidence)


def transfer_sentences(explanation: Explanation) -> list[str]:
    """Return how much of the teacher's robustness each student has."""
    attack, robust = attack_name(explanation.attack), fmean(explanation.teacher.robust)
    sentences = list[str]()
    if not explanation.teacher_is_robust:
        sentences.append(
            f"{explanation.teacher.name} has no robustness to pass on: {percent(robust)} under {attack}, where "
            f"guessing gives {percent(1 / explanation.num_classes)}."
        )
    for student in explanation.students:
        own = fmean(student.robust)
        ratio, interval = explanation.robustness_ratio(student)
        within = "" if interval is None else f" [{percent(interval[0], 0)}, {percent(interval[1], 0)}]"
        sentences.append(
            f"{student.name}: {percent(own)} under {attack}."
            if ratio is None
            else f"{student.name} has {percent(ratio, 0)}{within} of the teacher's robust accuracy "
            f"({percent(own)} of {percent(robust)} under {attack}): {_verdict(interval)}."
        )
    return sentences


def reason_sentences(explanation: Explanation) -> list[str]:
    """Return possible reasons from the other numbers: a comparison of students, rankings, then each student."""
    students = explanation.students
    sentences = [_extremes(explanation)] if len(students) > 1 else []
    sentences += _rankings(explanation)
    for student in students:
        sentences += [_agreement(explanation, student), _linearity(explanation, student)]
    return sentences


def _verdict(interval: ConfidenceInterval | None) -> str:
    if interval is None:
        return "one image decides nothing"
    low, high = interval
    if low >= 1:
        return "at least as much"
    if low >= NEARLY_ALL:
        return "nearly all of it"
    if low >= HALF:
        return "more than half of it"
    return "less than half of it" if high < HALF else "these images do not show whether more than half of it"


def _agreement(explanation: Explanation, student: StudentExplanation) -> str:
    defined = student.defined_cosines
    if not defined:
        return f"{student.name}: a gradient is zero on every image, so agreement with the teacher's is undefined."
    interval = mean_interval(defined, explanation.seed)
    low, high = interval or (-1.0, 1.0)
    direction = "point along" if low >= ALIGNED else "do not point along" if high < UNALIGNED else "point partly along"
    distance, norm = student.distance, explanation.teacher.gradient_norm
    ratio = ""
    if fmean(norm) > 0:
        within = _within(ratio_interval(distance, norm, explanation.seed), ".1f")
        ratio = f"; their distance is {fmean(distance) / fmean(norm):.1f}{within} times the length of the teacher's"
    return (
        f"{student.name}: its input gradients {direction} the teacher's (cosine {fmean(defined):.2f}"
        f"{_within(interval, '.2f')}){ratio}."
    )


def _linearity(explanation: Explanation, student: StudentExplanation) -> str:
    own, reference = fmean(student.linearity), fmean(explanation.teacher.linearity)
    interval = ratio_interval(student.linearity, explanation.teacher.linearity, explanation.seed)
    ratio = "" if reference == 0 else f", {own / reference:.1f}{_within(interval, '.1f')} times the teacher's"
    bound = student.student_bound
    term, share = bound.largest_term
    tight = ""
    if share is not None and bound.tightness is not None:
        tight = (
            f" The student bound allows a rise of {bound.mean:.2f} nats, {percent(share, 0)} of it from {TERMS[term]}; "
            f"{fmean(bound.measured):.2f} were found (tightness {bound.tightness:.2f})."
        )
    return f"{student.name}: its loss deviates from its linear approximation by up to {own:.2f} nats{ratio}.{tight}"


def _extremes(explanation: Explanation) -> str:
    """Compare the most and the least robust student, measure by measure, on the same images."""
    ordered = sorted(explanation.students, key=lambda student: fmean(student.robust))
    least, most = ordered[0], ordered[-1]
    difference, low, high = paired_difference(most.robust, least.robust)
    points = f"{100 * difference:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
    if low <= 0 <= high:
        return f"{most.name} and {least.name}, the most and the least robust student, differ by {points}: undecided."
    rows = [
        ("non-linearity", most.linearity, least.linearity, -1),
        ("gradient distance", most.distance, least.distance, -1),
        ("gradient length", most.gradient_norm, least.gradient_norm, -1),
        ("cosine", most.cosine, least.cosine, 1),
    ]
    differences = [text for row in rows if (text := _difference(*row, explanation.seed))]
    return f"{most.name} is more robust than {least.name} by {points}. What differs: {', '.join(differences)}."


def _difference(
    name: str, most: Sequence[float | None], least: Sequence[float | None], sign: int, seed: int
) -> str | None:
    """Compare a measure of two students; ``sign`` is 1 if larger values promise robustness, else -1."""
    pairs = [(a, b) for a, b in zip(most, least, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    low, high = mean_interval([a - b for a, b in pairs], seed) or (-1.0, 1.0)
    direction = sign if low > 0 else -sign if high < 0 else 0
    verdict = {1: "as expected", -1: "against expectation", 0: "undecided"}[direction]
    return f"{name} {fmean(a for a, _ in pairs):.2f} against {fmean(b for _, b in pairs):.2f} ({verdict})"


def _rankings(explanation: Explanation) -> list[str]:
    count = len(explanation.students)
    if count < FEWEST_MODELS:
        given = "1 student is" if count == 1 else f"{count} students are"
        return [f"{given} not enough to say how the bounds rank students; give at least {FEWEST_MODELS}."]
    by_name = {ranking.bound: ranking for ranking in explanation.rankings()}
    bounds = ("student bound", "transfer bound")
    attack = attack_name(explanation.attack)
    return [
        *(_ranking(by_name[name], attack) for name in bounds),
        _single_measures([ranking for name, ranking in by_name.items() if name not in bounds]),
    ]


def _ranking(ranking: Ranking, attack: str) -> str:
    if ranking.spearman is None or ranking.p_value is None:
        return f"The {ranking.bound} cannot be compared with {attack}: all students are equal in one of them."
    how = "orders" if _orders(ranking) else "is not shown to order"
    return (
        f"The {ranking.bound} {how} these {ranking.models} students as {attack} does: rank correlation "
        f"{ranking.spearman:.2f}{_within(ranking.interval_95, '.2f')} over images; a random order does as "
        f"well with probability {ranking.p_value:.2g}."
    )


def _single_measures(rankings: Sequence[Ranking]) -> str:
    """Say which of the terms of the bounds, and of the measured values, order the students."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    for ranking in rankings:
        correlation = "undefined" if ranking.spearman is None else f"{ranking.spearman:.2f}"
        texts[_orders(ranking)].append(f"{ranking.bound} ({correlation})")
    parts = [f"these measures order them: {', '.join(texts[True])}"] if texts[True] else []
    parts += [f"these are not shown to: {', '.join(texts[False])}"] if texts[False] else []
    return f"Alone, {'; '.join(parts)}."


def _orders(ranking: Ranking) -> bool:
    if ranking.p_value is None or ranking.interval_95 is None:
        return False
    return ranking.interval_95[0] > 0 and ranking.p_value < SIGNIFICANCE


def _within(interval: ConfidenceInterval | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
