"""The verdict on a group of models: did robustness transfer, how much, and how far can the numbers be believed.

Every sentence is computed, by rules that docs/report.md states. If an interval includes 0, the verdict is undecided; a
failed check of the numbers comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdiga.report.differences import AccuracyDifference, difference_of
from kdiga.report.groups import PLAIN, ModelGroup, ReportedModel
from kdiga.report.tables import listed, percent, signed, some_names
from kdiga.results.attack_names import attack_name
from kdiga.results.fields import fields
from kdiga.results.shared import Accuracy

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
    sentences: Sequence[Sentence]  # how much robustness transferred, a sentence a model
    why: Sequence[str]  # what an explanation measured
    reliability: Sequence[str]  # how far the numbers can be believed
    against_teacher: Differences = field(default_factory=dict[str, AccuracyDifference])
    against_plain: Differences = field(default_factory=dict[str, AccuracyDifference])
    plain: str | None = None  # name of the best plain student


def judge_group(group: ModelGroup) -> GroupVerdict:
    """Return the verdict on a group."""
    attack = group.attack
    if attack is None:
        headline = "Nothing was attacked here, so robustness is unknown"
        return GroupVerdict(headline, [], _why(group), reliability(group, [], []))
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
        _headline(group, best, against_teacher, against_plain),
        [*_teacher_sentences(group), *sentences],
        _why(group),
        reliability(group, [*against_teacher.values(), *against_plain.values()], taught),
        against_teacher,
        against_plain,
        plain.name if plain else None,
    )


def _headline(
    group: ModelGroup, best: ReportedModel | None, against_teacher: Differences, against_plain: Differences
) -> str:
    """Return whether robustness transferred, by the rules in docs/report.md, the first that fits."""
    if best is None:
        return "Only teachers were judged here; there is no student to compare"
    found, plain = against_teacher.get(best.name), against_plain.get(best.name)
    if found is None or not best.taught_by:
        return "Which teacher these models had is not known or was not judged here; they are compared with each other"
    doubtful = [one.name for one in (best, group.named(best.taught_by)) if one and one.failed_checks]
    if doubtful:
        return f"Not to be believed yet: checks of {listed(doubtful)} failed"
    share = (
        f"{found.first.value / found.second.value:.0%}".replace("%", " %") if found.second.value else "nothing to keep"
    )
    has = f"{best.name} has {share} of its teacher's robust accuracy"
    rival = rival_without_teacher(group, best)
    without = f"{rival[0].name} has {'more' if rival[1].sign else 'as much'} without a teacher" if rival else ""
    rules = (
        (plain and plain.sign < 0, f"No: {best.name} is less robust than a student trained plainly"),
        (plain and plain.sign == 0, "Undecided: these images cannot tell the student from one trained plainly"),
        (rival, f"{has}, but {without}"),
        (not plain, f"{has}; whether by transfer is not known"),
        (found.sign > 0, f"Yes: {best.name} is more robust than its teacher"),
        (found.sign == 0, f"Yes: {best.name} cannot be told from its teacher on these images"),
    )
    return next((words for fits, words in rules if fits), f"Yes, in part: {has}")


def _teacher_sentences(group: ModelGroup) -> list[Sentence]:
    teacher, attack = group.teacher, group.attack
    unjudged = sorted({one.taught_by for one in group.students if one.taught_by and not group.named(one.taught_by)})
    sentences = [Sentence(name, "a teacher, not judged on this data and threat model.") for name in unjudged]
    if teacher is None or attack is None:
        return sentences
    name = teacher.name if teacher.name == "teacher" else f"{teacher.name}, the teacher"
    found = teacher.under(attack)
    if found is None:
        return [*sentences, Sentence(name, f"not attacked with {attack_name(attack)}.")]
    under = f"under {attack_name(attack)} {_interval(found)}"
    parts = [f"{percent(found.value)} of {found.images:,} test images right {under}"]
    if clean := teacher.under("clean"):
        parts.append(f"{percent(clean.value)} clean")
    if teacher.parameters:
        parts.append(f"{teacher.parameters:,} parameters")
    return [*sentences, Sentence(name, ", ".join(parts) + ".")]


def _student_sentence(
    student: ReportedModel,
    group: ModelGroup,
    against_teacher: AccuracyDifference | None,
    against_plain: AccuracyDifference | None,
    plain: ReportedModel | None,
) -> Sentence:
    found, teacher = student.accuracy[group.attack or ""][0], group.teacher_of(student)
    parts = [f"{percent(found.value)} right under {attack_name(group.attack or '')} {_interval(found)}"]
    if against_teacher and teacher:
        parts.append(_compared(against_teacher, "its teacher" if student.taught_by else "the others' teacher"))
    if against_plain and plain:
        parts.append(_compared(against_plain, f"plain {plain.name}"))
    if teacher and teacher.parameters and student.parameters and teacher.parameters > student.parameters:
        ratio = teacher.parameters / student.parameters
        parts.append(f"{ratio:.{0 if ratio >= 10 else 1}f} times fewer parameters")
    if student.failed_checks:
        parts.append(f"not to be believed, for it failed {listed(student.failed_checks)}")
    return Sentence(student.name, "; ".join(parts) + ".")


def _compared(found: AccuracyDifference, other: str) -> str:
    how = "95 %" if found.paired else "95 %, not paired"
    if found.sign == 0:
        ends = f"{signed(found.low)} to {signed(found.high)}"
        return f"undecided against {other}: {signed(found.value)} points ({how}: {ends})"
    low, high = sorted((abs(found.low), abs(found.high)))
    side = "above" if found.sign > 0 else "below"
    return f"{100 * abs(found.value):.1f} points {side} {other} ({how}: {100 * low:.1f} to {100 * high:.1f})"


def _interval(found: Accuracy) -> str:
    return f"(95 %: {100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f})"


def _why(group: ModelGroup) -> list[str]:
    """Return the sentences of the explanations; without any, how far gradients agree with the teacher's."""
    reasons = [reason for explanation in group.explanations for reason in explanation.reasons if reason]
    if reasons:
        return list(dict.fromkeys(reasons))
    cosines = [
        f"{one.name} {one.explained.gradient.cosine:.2f}"
        for one in group.students
        if one.explained and one.explained.gradient.cosine is not None
    ]
    return [f"Mean cosine of input gradients with the teacher's: {listed(cosines)}."] if cosines else []


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
    for verdict, words in (("failed", "failed"), ("warning", "drew a warning from")):
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
        sentences.append(
            f"{some_names([one.name for one in good])} passed all checks for masked gradients that were made."
        )
    unchecked = [one.name for one in group.members if one.accuracy and not one.findings]
    if unchecked:
        whom = "Nobody" if not checked else "For " + some_names(unchecked) + " nobody"
        sentences.append(f"{whom} checked whether gradients are masked; attacks may be fooled by that.")
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
    how = "more robust than" if difference.sign else "not distinguishable from"
    points = f"{signed(difference.value)} points, 95 %: {signed(difference.low)} to {signed(difference.high)}"
    return [
        f"{one.name} had no teacher and is {how} {taught[0].name} ({points}): robustness like this can come from "
        "training alone."
    ]


def _attack(group: ModelGroup) -> list[str]:
    attack = group.attack
    if attack is None:
        return []
    versions = sorted({one.version for member in group.members for one in member.evaluations if one.version})
    doubted = [one.name for one in group.members if any(any(found.notes.values()) for found in one.evaluations)]
    notes = [f"AutoAttack itself has doubts about {listed(doubted)}; see the findings."] if doubted else []
    if attack == "autoattack":
        return [f"Robust accuracy is AutoAttack's{f', version {listed(versions)}' if versions else ''}.", *notes]
    return [
        f"Robust accuracy is {attack_name(attack)}'s alone. A stronger attack can only find more, so true robustness "
        "is at most this; AutoAttack was not run on teacher and students both."
    ]


def _images(differences: Sequence[AccuracyDifference]) -> list[str]:
    if not differences:
        return []
    counts = sorted({min(difference.first.images, difference.second.images) for difference in differences})
    widest = max(difference.high - difference.low for difference in differences) / 2
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    sentences = [f"Differences rest on {images} images and are known to about ± {100 * widest:.0f} points or better."]
    if unpaired := sum(not difference.paired for difference in differences):
        sentences.append(
            f"{unpaired} of {len(differences)} differences are not of the same images, so their intervals are wider."
        )
    if any(difference.assumed for difference in differences):
        sentences.append("Some files do not name their images: the same number of one data set was taken for the same.")
    return sentences


def _choice(taught: Sequence[ReportedModel]) -> list[str]:
    if len(taught) < 3:
        return []
    return [
        f"The most robust of {len(taught)} students was picked by these same images, which favours it; judge it "
        "anew on others before building on it."
    ]


def _seeds(group: ModelGroup) -> list[str]:
    ran = [one.run for one in group.students if one.run]
    if not ran:
        return ["Intervals are over test images; they do not cover what another seed of training would give."]
    recipes = Counter(str({**run.recipe, "training": fields(run.recipe.get("training")) | {"seed": 0}}) for run in ran)
    if max(recipes.values()) > 1:
        return ["Intervals are over test images; compare the runs of one method for what another seed gives."]
    return ["Each method is here with one seed: intervals are over test images, not over what other seeds would give."]
