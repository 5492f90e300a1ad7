"""The verdict on a group of models: did robustness transfer, how much, and how far can the numbers be trusted.

Every sentence is computed, by rules that docs/report.md states. If an interval includes 0, the difference is not
significant; a failed check of the numbers comes first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdiga.report.blocks import teacher_name
from kdiga.report.differences import AccuracyDifference, difference_of
from kdiga.report.groups import PLAIN, ModelGroup, ReportedModel
from kdiga.report.reasons import reasons
from kdiga.report.tables import listed, signed, some_names
from kdiga.results.attack_names import attack_name
from kdiga.results.fields import fields
from kdiga.results.shared import Accuracy
from kdiga.statistics import percent

Differences = Mapping[str, AccuracyDifference]  # by the student's name
DESCRIBED = 5  # students that get a sentence; the table has all


@dataclass(frozen=True)
class Sentence:
    """What is said of a model; without a name, of several."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.name else self.text


@dataclass(frozen=True)
class GroupVerdict:
    """What the page says first about a group; differences are of robust accuracies, by student."""

    headline: str
    sentences: Sequence[Sentence]  # how much robustness transferred, one sentence for each model
    why: Sequence[str]  # what an explanation measured
    reliability: Sequence[str]  # how far the numbers can be trusted
    against_teacher: Differences = field(default_factory=dict[str, AccuracyDifference])
    against_plain: Differences = field(default_factory=dict[str, AccuracyDifference])
    plain: str | None = None  # name of the best plain student


def judge_group(group: ModelGroup) -> GroupVerdict:
    """Return the verdict on a group."""
    attack = group.attack
    if attack is None:
        headline = "No model was attacked here, so robustness is unknown"
        return GroupVerdict(headline, [], reasons(group, None, None), reliability(group, [], []))
    measured = [member for member in group.students if member.under(attack)]
    plain = next((one for one in measured if one.method in PLAIN or one.identity.name in PLAIN), None)
    against_teacher: dict[str, AccuracyDifference] = {}
    against_plain: dict[str, AccuracyDifference] = {}
    for student in measured:
        teacher = group.teacher_of(student)
        if teacher and (found := difference_of(student.accuracy[attack], teacher.accuracy.get(attack, ()))):
            against_teacher[student.name] = found
        if (
            plain
            and student is not plain
            and (found := difference_of(student.accuracy[attack], plain.accuracy[attack]))
        ):
            against_plain[student.name] = found
    taught = [one for one in measured if one.taught_by and one is not plain]
    best = next(iter(taught or measured), None)
    described = list(measured[:DESCRIBED])
    if plain and plain not in described:
        described[-1] = plain
    sentences = [
        _student_sentence(one, group, against_teacher.get(one.name), against_plain.get(one.name), plain)
        for one in described
    ]
    if len(measured) > len(described):
        sentences.append(Sentence("", f"{len(measured) - len(described)} more students are in the table below."))
    return GroupVerdict(
        _headline(group, best, against_teacher, plain, against_plain),
        [*_teacher_sentences(group), *sentences],
        reasons(group, best, plain),
        reliability(group, [*against_teacher.values(), *against_plain.values()], taught),
        against_teacher,
        against_plain,
        plain.name if plain else None,
    )


def _headline(
    group: ModelGroup,
    best: ReportedModel | None,
    against_teacher: Differences,
    plain: ReportedModel | None,
    against_plain: Differences,
) -> str:
    """Return whether robustness transferred, by the rules in docs/report.md, the first that fits."""
    if best is None:
        return "Only teachers were evaluated here; there is no student to compare"
    found = against_teacher.get(best.name)
    if found is None or not best.taught_by:
        return "The teacher of these models is unknown or was not evaluated here; they are compared with each other"
    doubtful = [one.name for one in (best, group.named(best.taught_by)) if one and one.failed_checks]
    if doubtful:
        return f"These numbers cannot be trusted yet: {listed(doubtful)} failed checks"
    student = f"The {best.name} student"
    if plain and (than_plain := against_plain.get(best.name)) and than_plain.sign <= 0:
        return _not_above_plain(student, plain.name, than_plain)
    share = percent(found.first.value / found.second.value, 0) if found.second.value else "none"
    has = f"{student} keeps {share} of its teacher's robust accuracy ({_versus(found)})"
    if rival := rival_without_teacher(group, best):
        return f"{has}, but {rival[0].name} is {'more' if rival[1].sign else 'as'} robust without a teacher"
    if best.name not in against_plain:
        return f"{has}. Without a plainly trained student it is unknown whether distillation is the reason"
    size = _size(best, group.named(best.taught_by))
    if found.sign < 0:
        return f"Yes, in part. {has}{size}"
    if found.sign > 0:
        return f"Yes. {student} is more robust than its teacher ({_versus(found)}){size}"
    return f"Yes. {student} is as robust as its teacher ({_versus(found)}, difference within the margin of error){size}"


def _not_above_plain(student: str, plain: str, found: AccuracyDifference) -> str:
    if found.sign < 0:
        return f"No. {student} is less robust than {plain}, which was trained plainly ({_versus(found)})"
    within = "difference within the margin of error"
    return f"Undecided. {student} is about as robust as {plain}, which was trained plainly ({_versus(found)}, {within})"


def _versus(found: AccuracyDifference) -> str:
    return f"{percent(found.first.value)} vs {percent(found.second.value)}"


def _size(student: ReportedModel, teacher: ReportedModel | None) -> str:
    """Return the end of a sentence with a student's size; "" if it is unknown or more than half of its teacher's."""
    own, whole = student.parameters, teacher.parameters if teacher else None
    if not own or not whole or 2 * own > whole:
        return ""
    share, ratio = percent(own / whole, 0), round(whole / own)
    return f", with {f'1/{ratio}' if share == percent(1 / ratio, 0) else share} of the parameters"


def _teacher_sentences(group: ModelGroup) -> list[Sentence]:
    teacher, attack = group.teacher, group.attack
    missing = sorted({one.taught_by for one in group.students if one.taught_by and not group.named(one.taught_by)})
    sentences = [Sentence(name, "a teacher that was not evaluated on this data and threat model.") for name in missing]
    if teacher is None or attack is None:
        return sentences
    name = teacher_name(teacher.name)
    found = teacher.under(attack)
    if found is None:
        return [*sentences, Sentence(name, f"not attacked with {attack_name(attack)}.")]
    clean = teacher.under("clean")
    without = f"; {percent(clean.value)} without an attack" if clean else ""
    text = f"{percent(found.value)} right under {attack_name(attack)} {_interval(found)}{without}."
    return [*sentences, Sentence(name, text)]


def _student_sentence(
    student: ReportedModel,
    group: ModelGroup,
    against_teacher: AccuracyDifference | None,
    against_plain: AccuracyDifference | None,
    plain: ReportedModel | None,
) -> Sentence:
    found, teacher = student.accuracy[group.attack or ""][0], group.teacher_of(student)
    parts = [f"{percent(found.value)} right under {attack_name(group.attack or '')}"]
    if against_teacher and teacher:
        parts.append(_compared(against_teacher, "its teacher" if student.taught_by else "the others' teacher"))
    if against_plain and plain:
        parts.append(_compared(against_plain, plain.name).partition(" (")[0])
    if student.failed_checks:
        parts.append(f"not to be trusted: it failed {listed(student.failed_checks)}")
    return Sentence(student.name, "; ".join(parts) + ".")


def _compared(found: AccuracyDifference, other: str) -> str:
    how = "95 %" if found.paired else "95 %, not paired"
    if found.sign == 0:
        return f"not significantly different from {other} ({signed(found.value)} points)"
    low, high = sorted((abs(found.low), abs(found.high)))
    side = "above" if found.sign > 0 else "below"
    return f"{100 * abs(found.value):.1f} points {side} {other} ({how}: {100 * low:.1f} to {100 * high:.1f})"


def _interval(found: Accuracy) -> str:
    return f"(95 %: {100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f})"


def reliability(
    group: ModelGroup, differences: Sequence[AccuracyDifference], taught: Sequence[ReportedModel]
) -> list[str]:
    """Return what speaks for and against the numbers.

    The verdict rests on the differences, and names the best of the ``taught`` students.
    """
    return [
        *_checks(group),
        *_attack(group),
        *_without_teacher(group, taught),
        *_images(differences),
        *_choice(taught),
        *_seeds(group),
    ]


def _checks(group: ModelGroup) -> list[str]:
    sentences: list[str] = []
    checked = [one for one in group.members if one.findings]
    for verdict, words in (("failed", "failed"), ("warning", "got a warning from")):
        # Models that the same checks are about share a sentence.
        alike: dict[tuple[tuple[str, ...], int], list[str]] = {}
        for member in checked:
            found = tuple(finding.name for finding in member.findings if finding.verdict == verdict)
            if found:
                alike.setdefault((found, len(member.findings)), []).append(member.name)
        sentences += [
            f"{listed(members)} {words} {len(found)} of {count} checks: {listed(found)}."
            for (found, count), members in alike.items()
        ]
    sentences += [
        f"{one.name}, {finding.name}: {finding.message}"
        for one in checked
        for finding in one.findings
        if "sources" in finding.evidence
    ]
    sentences += [
        f"{finding.name}: {finding.message}"
        for explanation in group.explanations
        for finding in explanation.findings
        if finding.verdict == "failed"
    ]
    sentences += [
        f"{one.name or one.model} as a teacher: {one.summary}"
        for one in group.suitabilities
        if any(finding.verdict == "failed" for finding in one.findings)
    ]
    good = [one for one in checked if not any(finding.verdict in ("failed", "warning") for finding in one.findings)]
    if good:
        whom = "All models" if len(good) == len(group.members) > 1 else some_names([one.name for one in good])
        sentences.append(f"{whom} passed all checks for masked gradients that were run.")
    unchecked = [one.name for one in group.members if one.accuracy and not one.findings]
    if unchecked:
        whom = some_names(unchecked) if checked else "the models"
        sentences.append(f"No check for masked gradients was run on {whom}; masked gradients make attacks too weak.")
    return sentences


def rival_without_teacher(group: ModelGroup, best: ReportedModel) -> tuple[ReportedModel, AccuracyDifference] | None:
    """Return the most robust model that had no teacher, and its robust accuracy less the best taught student's.

    It is None if that is below 0 or all models had teachers.
    """
    alone = [
        one
        for one in group.students
        if one.run and not one.run.teacher and one.method not in PLAIN and one.under(group.attack)
    ]
    if not alone or group.attack is None:
        return None
    difference = difference_of(alone[0].accuracy[group.attack], best.accuracy[group.attack])
    return None if difference is None or difference.sign < 0 else (alone[0], difference)


def _without_teacher(group: ModelGroup, taught: Sequence[ReportedModel]) -> list[str]:
    rival = rival_without_teacher(group, taught[0]) if taught else None
    if rival is None:
        return []
    one, difference = rival
    how = "more robust than" if difference.sign else "not significantly less robust than"
    points = f"{signed(difference.value)} points, 95 %: {signed(difference.low)} to {signed(difference.high)}"
    return [
        f"{one.name} had no teacher and is {how} {taught[0].name} ({points}): this robustness can come from training "
        "alone."
    ]


def _attack(group: ModelGroup) -> list[str]:
    attack = group.attack
    if attack is None:
        return []
    versions = sorted({one.version for member in group.members for one in member.evaluations if one.version})
    doubted = [one.name for one in group.members if any(any(found.notes.values()) for found in one.evaluations)]
    notes = [f"AutoAttack gave a note on {listed(doubted)}; see the findings."] if doubted else []
    if attack == "autoattack":
        return [
            f"Robust accuracy is measured by AutoAttack{f', version {listed(versions)}' if versions else ''}.",
            *notes,
        ]
    return [
        f"Robust accuracy is measured by {attack_name(attack)} alone, because AutoAttack was not run on teacher and "
        "students both. A stronger attack can only lower it."
    ]


def _images(differences: Sequence[AccuracyDifference]) -> list[str]:
    if not differences:
        return []
    counts = sorted({min(difference.first.images, difference.second.images) for difference in differences})
    widest = max(difference.high - difference.low for difference in differences) / 2
    points = math.ceil(round(100 * widest, 6))
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    sentences = [f"Differences are measured on {images} images; their margin of error is at most ±{points} points."]
    if unpaired := sum(not difference.paired for difference in differences):
        sentences.append(
            f"{unpaired} of {len(differences)} differences compare different images, so their intervals are wider."
        )
    if any(difference.assumed for difference in differences):
        sentences.append(
            "Some files do not identify their images; equal numbers of images are assumed to be the same images."
        )
    return sentences


def _choice(taught: Sequence[ReportedModel]) -> list[str]:
    if len(taught) < 3:
        return []
    return [
        f"The most robust of {len(taught)} students was chosen on these same images, which favours it; evaluate it "
        "on other images before you rely on it."
    ]


def _seeds(group: ModelGroup) -> list[str]:
    ran = [one.run for one in group.students if one.run]
    if not ran:
        return ["Intervals are over test images; they do not cover the spread between training seeds."]
    recipes = Counter(str({**run.recipe, "training": fields(run.recipe.get("training")) | {"seed": 0}}) for run in ran)
    if max(recipes.values()) > 1:
        return [
            "Intervals are over test images; for the spread between training seeds, compare the runs of one method."
        ]
    return ["Each method has one training seed: intervals are over test images, not over seeds."]
