"""The table of models: accuracies with intervals, sizes, costs, and the difference from the teacher."""

from __future__ import annotations

from kdiga.report.answer import Answer
from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Section, Table, TableCell, mark
from kdiga.report.strength import strength
from kdiga.report.wording import percent, signed, span
from kdiga.results.attack_names import attack_name
from kdiga.results.shared import Accuracy

SIGNS = {1: "more", -1: "less", 0: "undecided"}


def models_section(chapter: Chapter, said: Answer) -> Section:
    """Return the table of a chapter's models, teachers first, then the most robust first."""
    attacks = sorted({attack for one in chapter.members for attack in one.accuracy}, key=strength)
    counts = {attack: {found.images for one in chapter.members if (found := one.of(attack))} for attack in attacks}
    costs = any(one.run and one.run.minutes is not None for one in chapter.members)
    gaps = bool(said.against_teacher)
    head = ["model", "parameters", *(attack_name(attack) for attack in attacks)]
    head += [f"{attack_name(chapter.attack or '')} against the teacher, points"] * gaps + ["training"] * costs
    rows = [
        [
            TableCell(one.name, _about(one, chapter), mark=mark(one.place)),
            TableCell("–" if one.parameters is None else f"{one.parameters:,}"),
            *(_accuracy(one.of(attack), len(counts[attack]) > 1) for attack in attacks),
            *([_gap(one, said)] * gaps),
            *([_cost(one)] * costs),
        ]
        for one in chapter.members
    ]
    images = "; ".join(
        f"{attack_name(attack)} {next(iter(found)):,}" for attack, found in counts.items() if len(found) == 1
    )
    lead = "Small figures are 95 % intervals over the test images; they do not cover the spread between seeds."
    return Section("Models", [Table(head, rows)], [lead + (f" Images: {images}." if images else "")])


def _about(one: ReportedModel, chapter: Chapter) -> str:
    role = "teacher" if one in chapter.teachers else ""
    if one.taught_by and one.taught_by != (chapter.teacher.name if chapter.teacher else None):
        role = f"taught by {one.taught_by}"
    elif not role and one.run and not one.taught_by and chapter.teacher:
        role = "no teacher"
    architecture = one.identity.architecture or (one.run.architecture if one.run else "")
    which = "last weights" if one.identity.which == "last" else ""
    return ", ".join(part for part in (role, one.method, architecture, which) if part)


def _accuracy(found: Accuracy | None, count: bool) -> TableCell:
    if found is None:
        return TableCell("–")
    images = f" ({found.images:,} images)" if count else ""
    return TableCell(percent(found.value), span(found.interval) + images, found.value)


def _gap(one: ReportedModel, said: Answer) -> TableCell:
    gap = said.against_teacher.get(one.name)
    if gap is None:
        return TableCell("–")
    how = "" if gap.paired else ", not paired"
    return TableCell(f"{signed(gap.value)}", f"{signed(gap.low)} to {signed(gap.high)}{how}: {SIGNS[gap.sign]}")


def _cost(one: ReportedModel) -> TableCell:
    if one.run is None or one.run.minutes is None:
        return TableCell("–")
    passes = f"{one.run.passes:,} passes" if one.run.passes else ""
    return TableCell(f"{one.run.minutes:.2f} min", passes)
