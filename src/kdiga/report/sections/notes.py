"""The end of a page: findings, exported files, what was not measured, and where the numbers come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

from kdiga.report.blocks import Items, ListItem, Section, Table, TableCell
from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.report.tables import hardware_text
from kdiga.results.exports import ExportResult, FormatTable
from kdiga.results.fields import fields
from kdiga.results.folders import LeftOut, Results
from kdiga.results.shared import FindingRecord, ResultOrigin, command_of

ORDER = {"failed": 0, "warning": 1, "skipped": 2, "passed": 3}
EXPLAINED = 4  # students in a command that is offered
EXPORTS_LEAD = (
    "Each file was run on test images. Transferred attacks use the gradients of the model in PyTorch; Square uses only "
    "the logits of the file. Together they are weaker than a white-box attack on an int8 file, so its robust accuracy "
    "is an upper bound. Worst: correct without an attack and under every attack."
)


def findings_section(group: ModelGroup) -> Section | None:
    """Return findings and AutoAttack's notes, failed checks first; None if nothing was checked."""
    found = [(finding, member.name) for member in group.members for finding in member.findings]
    found += [(finding, "explanation") for one in group.explanations for finding in one.findings]
    notes = [
        ListItem(note, "warning", f"{member.name}: a note of {attack}")
        for member in group.members
        for evaluation in member.evaluations
        for attack, noted in evaluation.notes.items()
        for note in noted
        if note
    ]
    teachers = [(f"{one.name or one.model} as a teacher", one) for one in group.suitabilities]
    verdicts = [ListItem(one.summary, title=name) for name, one in teachers]
    found += [(finding, name) for name, one in teachers for finding in one.findings]
    if not (found or notes or verdicts):
        return None
    found.sort(key=lambda entry: ORDER[entry[0].verdict])
    loud = [_finding(finding, name) for finding, name in found if finding.verdict in ("failed", "warning")]
    quiet = [_finding(finding, name) for finding, name in found if finding.verdict not in ("failed", "warning")]
    blocks = [Items([*verdicts, *loud, *notes])] if verdicts or loud or notes else []
    if quiet:
        passed = sum(item.tone == "passed" for item in quiet)
        skipped = f", {len(quiet) - passed} could not be run" if passed < len(quiet) else ""
        blocks.append(Items(quiet, f"{passed} checks passed{skipped}"))
    checked = all(member.findings for member in group.members if member.accuracy)
    lead = ["No check found a problem."] if checked and not loud and not notes else []
    return Section("Findings", blocks, lead)


def _finding(finding: FindingRecord, name: str) -> ListItem:
    return ListItem(finding.message, finding.verdict, f"{name}: {finding.name.replace('_', ' ').replace('-', ' ')}")


def exports_section(exports: Sequence[ExportResult]) -> Section | None:
    """Return size, speed and accuracy of each exported file, a table a model; None without any."""
    return Section("Exported files", [_export_table(one) for one in exports], [EXPORTS_LEAD]) if exports else None


def _export_table(export: ExportResult) -> Table:
    found = FormatTable(export.formats)
    caption = (
        f"{export.model} ({export.architecture}), {export.conditions}. Images: {found.images}. Small figures: 95 % "
        "intervals; quartiles of the time, one thread."
    )
    rows = [
        [TableCell(name, f"the same as {one.same_as}" if one.same_as else one.runtime), *starmap(TableCell, cells)]
        for (name, one), cells in zip(export.formats.items(), found.rows, strict=True)
    ]
    return Table(found.head, rows, caption)


def missing_section(group: ModelGroup, present: Sequence[str]) -> Section | None:
    """Return what the group's sections, given by their titles, do not show, and the commands that measure it."""
    students = [one for one in group.students if one.place is not None]
    some = students[0] if students else group.teacher
    if some is None:
        return None
    path, teacher = _path(some), _path(group.teacher) if group.teacher else "TEACHER"
    against = ["--against", teacher] if students else []
    explain = ["explain", teacher, *(_path(one) for one in students[:EXPLAINED])]
    asked = {"norm": group.conditions.norm, "eps": f"{group.conditions.eps:.6g}"}
    pictured = "Input gradients and adversarial examples" in present
    rules: list[tuple[bool, str, list[str]]] = [
        (group.attack != "autoattack", "AutoAttack", ["evaluate", path, "--attacks", "clean,pgd-20,autoattack"]),
        ("Accuracy against eps" not in present, "Accuracy against eps", ["evaluate", path, "--sweep", "auto"]),
        (not any(one.findings for one in group.members), "Checks for masked gradients", ["evaluate", path]),
        ("Certified robustness" not in present, "Certified robustness", ["certify", path, *against]),
        (not group.explanations and bool(students), "Why, and the pictures", explain),
        (bool(group.explanations) and not pictured, "Pictures", [*explain, "--pictures", "6"]),
        (
            not group.suitabilities and group.teacher is not None,
            "Whether the teacher is suitable",
            ["suitable", teacher],
        ),
    ]
    items = [ListItem("", title=title, command=command_of(*parts, **asked)) for fits, title, parts in rules if fits]
    if "Training" not in present:
        items.append(ListItem("give the folders of the runs as well.", title="Training curves and costs"))
    if group.teacher is None:
        items.append(
            ListItem(
                "an explanation or the config.yaml of a run names the teacher of these students.", title="The teacher"
            )
        )
    return Section("Not measured, and how to measure it", [Items(items)]) if items else None


def _path(member: ReportedModel) -> str:
    return str(member.run.folder) if member.run else member.identity.model or "MODEL"


def left_out_section(left_out: Sequence[LeftOut]) -> Section | None:
    """Return the files that were found and not used; None without any."""
    items = [ListItem(f"left out, because {one.reason}.", "warning", str(one.path)) for one in left_out]
    return Section("Left out", [Items(items)]) if items else None


def provenance_section(results: Results) -> Section:
    """Return the files that the page is made of, their commands, dates, versions and hardware."""
    judged = (*results.evaluations, *results.certificates, *results.explanations, *results.suitabilities)
    origins = [origin for found in (*judged, *results.exports) for origin in found.origins]
    origins += [found.origin for found in results.runs]
    distinct = list({(origin.path, origin.command): origin for origin in origins}.values())
    by_command: dict[tuple[str, bool], list[ResultOrigin]] = defaultdict(list)
    for origin in distinct:
        by_command[origin.command, origin.recorded].append(origin)
    commands = [
        ListItem(
            f"{found[0].path}" + (f" and {len(found) - 1} more files" if len(found) > 1 else ""),
            title="" if recorded else "Equivalent command (the file does not record its own)",
            command=command,
        )
        for (command, recorded), found in by_command.items()
        if command
    ]
    commands += [ListItem(str(study.path), command=study.command) for study in results.studies if study.command]
    files = [
        ListItem(f"{one.path}, {_date(one)}{'' if one.seed is None else f', seed {one.seed}'}")
        for one in {origin.path: origin for origin in distinct}.values()
    ]
    blocks = [
        Items(_machines(distinct)),
        Items(commands, f"Reproduce: {len(commands)} commands"),
        Items(files, f"{len(files)} files"),
    ]
    return Section("Provenance", blocks)


def _date(origin: ResultOrigin) -> str:
    return str(origin.provenance.get("date") or "no date")[:10]


def _machines(origins: Sequence[ResultOrigin]) -> list[ListItem]:
    machines = {hardware_text(found) for one in origins if (found := fields(one.provenance.get("hardware")))}
    versions = {_versions(found) for one in origins if (found := fields(one.provenance.get("versions")))}
    dates = sorted({date for one in origins if (date := _date(one)) != "no date"})
    lines = {
        "Hardware": "; ".join(sorted(machines)),
        "Versions": "; ".join(sorted(versions)),
        "Dates": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
    }
    return [ListItem(text or "not recorded", title=title) for title, text in lines.items()]


def _versions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)
