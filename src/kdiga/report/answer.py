"""The answer that a chapter's numbers give: did robustness transfer, how much, and how sure is that.

Every sentence is computed, by rules that docs/report.md states. Where an interval includes 0 the answer is that the
data cannot tell; where a check of the numbers failed, that comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdiga.report.chapters import PLAIN, Chapter, Member
from kdiga.report.comparing import Difference, difference, signed
from kdiga.report.headers import names
from kdiga.report.records import Accuracy
from kdiga.report.trust import trust
from kdiga.report.verdict import attack_name

TOLD = 5  # students that get a sentence; the table has all


@dataclass(frozen=True)
class Answer:
    """What a chapter says first.

    Args:
        headline: in a few words.
        sentences: how much came over, a sentence a model.
        why: what an explanation measured; empty without one.
        trust: how far the numbers can be believed.
        against_teacher: each student's robust accuracy less its teacher's, by name.
        against_plain: the same less the best plain student's.
        plain: name of that student; None if there is none.
    """

    headline: str
    sentences: Sequence[str]
    why: Sequence[str]
    trust: Sequence[str]
    against_teacher: dict[str, Difference] = field(default_factory=dict[str, Difference])
    against_plain: dict[str, Difference] = field(default_factory=dict[str, Difference])
    plain: str | None = None


def answer(chapter: Chapter) -> Answer:
    """Return the answer of a chapter."""
    attack = chapter.attack
    if attack is None:
        return Answer(
            "Nothing was attacked here, so robustness is unknown", [], _why(chapter), trust(chapter, [], []), {}, {}
        )
    measured = [member for member in chapter.students if member.of(attack)]
    plain = next((one for one in measured if one.method in PLAIN or one.identity.name in PLAIN), None)
    teacher_gaps: dict[str, Difference] = {}
    plain_gaps: dict[str, Difference] = {}
    for student in measured:
        teacher = chapter.named(student.taught_by) or chapter.teacher
        if teacher and (gap := difference(student.accuracy[attack], teacher.accuracy.get(attack, ()))):
            teacher_gaps[student.name] = gap
        if plain and student is not plain and (gap := difference(student.accuracy[attack], plain.accuracy[attack])):
            plain_gaps[student.name] = gap
    taught = [one for one in measured if one.taught_by and one is not plain]
    best = next(iter(taught or measured), None)
    gaps = [*teacher_gaps.values(), *plain_gaps.values()]
    return Answer(
        _headline(chapter, best, teacher_gaps, plain_gaps),
        [*_of_teacher(chapter), *_of_students(chapter, measured, teacher_gaps, plain_gaps, plain)],
        _why(chapter),
        trust(chapter, gaps, taught),
        teacher_gaps,
        plain_gaps,
        plain.name if plain else None,
    )


def suspect(member: Member) -> list[str]:
    """Return the names of the checks that a model's numbers failed."""
    return [finding.name for finding in member.findings if finding.verdict == "failed"]


def _headline(
    chapter: Chapter, best: Member | None, teacher_gaps: dict[str, Difference], plain_gaps: dict[str, Difference]
) -> str:
    if best is None:
        return "Only teachers were judged here; there is no student to compare"
    gap, plain = teacher_gaps.get(best.name), plain_gaps.get(best.name)
    if gap is None or not best.taught_by:
        return "Which teacher these models had is not known or was not judged here; they are compared with each other"
    doubt = [one.name for one in (best, chapter.named(best.taught_by)) if one and suspect(one)]
    if doubt:
        return f"Not to be believed yet: checks of {names(doubt)} failed"
    if plain and plain.sign < 0:
        return f"No: {best.name} is less robust than a student without it"
    if plain and plain.sign == 0:
        return "Undecided: these images cannot tell the student from one distilled or trained plainly"
    if gap.sign > 0:
        return f"{best.name} is more robust than its teacher" + ("" if plain else "; whether by transfer is not known")
    if not plain:
        return f"{best.name} has {_kept(gap)} of its teacher's robust accuracy; whether by transfer is not known"
    if gap.sign == 0:
        return f"Yes: {best.name} cannot be told from its teacher on these images"
    return f"Yes, in part: {best.name} keeps {_kept(gap)} of its teacher's robust accuracy"


def _kept(gap: Difference) -> str:
    return f"{gap.first.value / gap.second.value:.0%}".replace("%", " %") if gap.second.value else "nothing to keep"


def _of_teacher(chapter: Chapter) -> list[str]:
    teacher, attack = chapter.teacher, chapter.attack
    unjudged = sorted({one.taught_by for one in chapter.students if one.taught_by and not chapter.named(one.taught_by)})
    sentences = [f"The teacher {names(unjudged)} was not judged on this data and threat model."] if unjudged else []
    if teacher is None or attack is None:
        return sentences
    found = teacher.of(attack)
    if found is None:
        return [*sentences, f"The teacher {teacher.name} was not attacked with {attack_name(attack)}."]
    clean = teacher.of("clean")
    size = f", {teacher.parameters:,} parameters" if teacher.parameters else ""
    also = f"; clean it has {_percent(clean.value)}" if clean else ""
    return [
        *sentences,
        f"The teacher {teacher.name}{size}: {_percent(found.value)} of {found.images:,} test images right under "
        f"{attack_name(attack)} (95 %: {interval(found)}){also}.",
    ]


def _of_students(
    chapter: Chapter,
    measured: Sequence[Member],
    teacher_gaps: dict[str, Difference],
    plain_gaps: dict[str, Difference],
    plain: Member | None,
) -> list[str]:
    told = list(measured[:TOLD])
    if plain and plain not in told:
        told[-1] = plain
    sentences = [_of_student(one, chapter, teacher_gaps.get(one.name), plain_gaps.get(one.name), plain) for one in told]
    if len(measured) > len(told):
        sentences.append(f"{len(measured) - len(told)} more students are in the table below.")
    return sentences


def _of_student(
    student: Member, chapter: Chapter, gap: Difference | None, over: Difference | None, plain: Member | None
) -> str:
    found = student.of(chapter.attack)
    assert found is not None
    assert chapter.attack is not None
    parts = [
        f"{student.name}: {_percent(found.value)} right under {attack_name(chapter.attack)} (95 %: {interval(found)})"
    ]
    teacher = chapter.named(student.taught_by) or chapter.teacher
    if gap and teacher:
        role = "its teacher" if student.taught_by else f"{teacher.name}, which did not teach it"
        against = {1: f"more than {role}", -1: f"less than {role}", 0: f"undecided against {role}"}[gap.sign]
        parts.append(f"{against}, {gap.points()}")
    if over and plain:
        beside = {1: "more than", -1: "less than", 0: "undecided against"}[over.sign]
        parts.append(f"{beside} plain {plain.name}, {over.points()}")
    if teacher and teacher.parameters and student.parameters and teacher.parameters > student.parameters:
        parts.append(f"with {_times(teacher.parameters / student.parameters)} fewer parameters")
    if failed := suspect(student):
        parts.append(f"not to be believed, for it failed {names(failed)}")
    return "; ".join(parts) + "."


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(found: Accuracy) -> str:
    """Return an accuracy's interval in percent."""
    return f"{100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f}"


def _why(chapter: Chapter) -> list[str]:
    said = [sentence for explanation in chapter.explanations for sentence in explanation.sentences if sentence]
    if said:
        return list(dict.fromkeys(said))
    pointed = [
        f"{one.name} {one.explained.cosine[0]:.2f}"
        for one in chapter.students
        if one.explained and one.explained.cosine is not None
    ]
    if not pointed:
        return []
    return [f"Mean cosine of input gradients with the teacher's: {names(pointed)}."]


def clean_gap(chapter: Chapter, student: Member) -> str | None:
    """Return a student's clean accuracy less its teacher's, in points; None if not measured."""
    teacher = chapter.named(student.taught_by) or chapter.teacher
    gap = difference(student.accuracy.get("clean", ()), teacher.accuracy.get("clean", ())) if teacher else None
    return None if gap is None else signed(gap.value)
