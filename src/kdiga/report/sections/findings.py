"""What was found about the numbers and about the teacher, failed checks first."""

from __future__ import annotations

from kdiga.report.chapters import Chapter
from kdiga.report.sections.parts import Items, ListItem, Section
from kdiga.results.evaluations import SuitabilityResult
from kdiga.results.shared import FindingRecord

ORDER = {"failed": 0, "warning": 1, "skipped": 2, "passed": 3}


def findings_section(chapter: Chapter) -> Section | None:
    """Return findings and AutoAttack's own notes; None where nothing was checked."""
    found = [(finding, member.name) for member in chapter.members for finding in member.findings]
    found += [(finding, "explanation") for one in chapter.explanations for finding in one.findings]
    notes = [
        ListItem(note, "warning", f"{member.name}: a note of {attack}")
        for member in chapter.members
        for evaluation in member.evaluations
        for attack, said in evaluation.notes.items()
        for note in said
        if note
    ]
    verdicts = [ListItem(one.summary, title=f"{_named(one)} as a teacher") for one in chapter.suitabilities]
    found += [(finding, f"{_named(one)} as a teacher") for one in chapter.suitabilities for finding in one.findings]
    if not (found or notes or verdicts):
        return None
    found.sort(key=lambda entry: ORDER[entry[0].verdict])
    loud = [_item(finding, name) for finding, name in found if finding.verdict in ("failed", "warning")]
    quiet = [_item(finding, name) for finding, name in found if finding.verdict not in ("failed", "warning")]
    blocks = [Items([*verdicts, *loud, *notes])] if verdicts or loud or notes else []
    if quiet:
        passed = sum(item.tone == "passed" for item in quiet)
        skipped = len(quiet) - passed
        blocks.append(Items(quiet, f"{passed} checks passed" + (f", {skipped} could not be made" if skipped else "")))
    checked = all(member.findings for member in chapter.members if member.accuracy)
    lead = ["Nothing was found against the numbers."] if checked and not loud and not notes else []
    return Section("Findings", blocks, lead)


def _named(one: SuitabilityResult) -> str:
    return one.name or one.model


def _item(finding: FindingRecord, name: str) -> ListItem:
    return ListItem(finding.message, finding.verdict, f"{name}: {finding.name.replace('_', ' ').replace('-', ' ')}")
