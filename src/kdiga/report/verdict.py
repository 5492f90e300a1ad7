"""The answer that a chapter's numbers give: did robustness transfer, how much, and how sure is that.

Every sentence is computed, by rules that docs/report.md states. Where an interval includes 0 the answer is that the
data cannot tell; where a check of the numbers failed, that comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdiga.report.chapters import PLAIN, Chapter, ReportedModel
from kdiga.report.gaps import Gap, gap_of
from kdiga.report.trust import trust, untaught_rival
from kdiga.report.wording import listed, signed
from kdiga.results.attack_names import attack_name
from kdiga.results.shared import Accuracy

TOLD = 5  # students that get a sentence; the table has all


@dataclass(frozen=True)
class Sentence:
    """What is said of a model; without a name, of several."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.name else self.text


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
    sentences: Sequence[Sentence]
    why: Sequence[str]
    trust: Sequence[str]
    against_teacher: dict[str, Gap] = field(default_factory=dict[str, Gap])
    against_plain: dict[str, Gap] = field(default_factory=dict[str, Gap])
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
    teacher_gaps: dict[str, Gap] = {}
    plain_gaps: dict[str, Gap] = {}
    for student in measured:
        teacher = chapter.named(student.taught_by) or chapter.teacher
        if teacher and (gap := gap_of(student.accuracy[attack], teacher.accuracy.get(attack, ()))):
            teacher_gaps[student.name] = gap
        if plain and student is not plain and (gap := gap_of(student.accuracy[attack], plain.accuracy[attack])):
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


def suspect(member: ReportedModel) -> list[str]:
    """Return the names of the checks that a model's numbers failed."""
    return [finding.name for finding in member.findings if finding.verdict == "failed"]


def _headline(
    chapter: Chapter, best: ReportedModel | None, teacher_gaps: dict[str, Gap], plain_gaps: dict[str, Gap]
) -> str:
    if best is None:
        return "Only teachers were judged here; there is no student to compare"
    gap, plain = teacher_gaps.get(best.name), plain_gaps.get(best.name)
    if gap is None or not best.taught_by:
        return "Which teacher these models had is not known or was not judged here; they are compared with each other"
    doubt = [one.name for one in (best, chapter.named(best.taught_by)) if one and suspect(one)]
    if doubt:
        return f"Not to be believed yet: checks of {listed(doubt)} failed"
    return _transfer(chapter, best, gap, plain)


def _transfer(chapter: Chapter, best: ReportedModel, gap: Gap, plain: Gap | None) -> str:
    """Return whether robustness came over, by the rules in docs/report.md, the first that fits."""
    kept = f"{best.name} has {_kept(gap)} of its teacher's robust accuracy"
    rival = untaught_rival(chapter, best)
    without = f"{rival[0].name} has {'more' if rival[1].sign else 'as much'} without a teacher" if rival else ""
    rules = (
        (plain and plain.sign < 0, f"No: {best.name} is less robust than a student trained plainly"),
        (plain and plain.sign == 0, "Undecided: these images cannot tell the student from one trained plainly"),
        (rival, f"{kept}, but {without}"),
        (not plain, f"{kept}; whether by transfer is not known"),
        (gap.sign > 0, f"Yes: {best.name} is more robust than its teacher"),
        (gap.sign == 0, f"Yes: {best.name} cannot be told from its teacher on these images"),
    )
    return next((words for fits, words in rules if fits), f"Yes, in part: {kept}")


def _kept(gap: Gap) -> str:
    return f"{gap.first.value / gap.second.value:.0%}".replace("%", " %") if gap.second.value else "nothing to keep"


def _of_teacher(chapter: Chapter) -> list[Sentence]:
    teacher, attack = chapter.teacher, chapter.attack
    unjudged = sorted({one.taught_by for one in chapter.students if one.taught_by and not chapter.named(one.taught_by)})
    sentences = [Sentence(name, "a teacher, not judged on this data and threat model.") for name in unjudged]
    if teacher is None or attack is None:
        return sentences
    found = teacher.of(attack)
    if found is None:
        return [*sentences, Sentence(_title(teacher), f"not attacked with {attack_name(attack)}.")]
    parts = [
        f"{_percent(found.value)} of {found.images:,} test images right under {attack_name(attack)} {_sure(found)}"
    ]
    if clean := teacher.of("clean"):
        parts.append(f"{_percent(clean.value)} clean")
    if teacher.parameters:
        parts.append(f"{teacher.parameters:,} parameters")
    return [*sentences, Sentence(_title(teacher), ", ".join(parts) + ".")]


def _title(teacher: ReportedModel) -> str:
    return teacher.name if teacher.name == "teacher" else f"{teacher.name}, the teacher"


def _of_students(
    chapter: Chapter,
    measured: Sequence[ReportedModel],
    teacher_gaps: dict[str, Gap],
    plain_gaps: dict[str, Gap],
    plain: ReportedModel | None,
) -> list[Sentence]:
    told = list(measured[:TOLD])
    if plain and plain not in told:
        told[-1] = plain
    sentences = [_of_student(one, chapter, teacher_gaps.get(one.name), plain_gaps.get(one.name), plain) for one in told]
    if len(measured) > len(told):
        sentences.append(Sentence("", f"{len(measured) - len(told)} more students are in the table below."))
    return sentences


def _of_student(
    student: ReportedModel, chapter: Chapter, gap: Gap | None, over: Gap | None, plain: ReportedModel | None
) -> Sentence:
    found = student.of(chapter.attack)
    assert found is not None
    teacher = chapter.named(student.taught_by) or chapter.teacher
    parts = [f"{_percent(found.value)} right under {attack_name(chapter.attack or '')} {_sure(found)}"]
    if gap and teacher:
        role = "its teacher" if student.taught_by else "the others' teacher"
        parts.append(_beside(gap, role))
    if over and plain:
        parts.append(_beside(over, f"plain {plain.name}"))
    if teacher and teacher.parameters and student.parameters and teacher.parameters > student.parameters:
        parts.append(f"{_times(teacher.parameters / student.parameters)} fewer parameters")
    if failed := suspect(student):
        parts.append(f"not to be believed, for it failed {listed(failed)}")
    return Sentence(student.name, "; ".join(parts) + ".")


def _beside(gap: Gap, other: str) -> str:
    how = "95 %" if gap.paired else "95 %, not paired"
    if gap.sign == 0:
        ends = f"{signed(gap.low)} to {signed(gap.high)}"
        return f"undecided against {other}: {signed(gap.value)} points ({how}: {ends})"
    low, high = sorted((abs(gap.low), abs(gap.high)))
    side = "above" if gap.sign > 0 else "below"
    return f"{100 * abs(gap.value):.1f} points {side} {other} ({how}: {100 * low:.1f} to {100 * high:.1f})"


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _sure(found: Accuracy) -> str:
    return f"(95 %: {100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f})"


def _why(chapter: Chapter) -> list[str]:
    said = [sentence for explanation in chapter.explanations for sentence in explanation.reasons if sentence]
    if said:
        return list(dict.fromkeys(said))
    pointed = [
        f"{one.name} {one.explained.gradient.cosine:.2f}"
        for one in chapter.students
        if one.explained and one.explained.gradient.cosine is not None
    ]
    if not pointed:
        return []
    return [f"Mean cosine of input gradients with the teacher's: {listed(pointed)}."]
