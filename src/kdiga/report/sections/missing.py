"""What was not measured, and the command that measures it."""

from __future__ import annotations

from collections.abc import Sequence

from kdiga.report.chapters import Chapter, ReportedModel
from kdiga.report.sections.parts import Items, ListItem, Section
from kdiga.results.shared import command_of

EXPLAINED = 4  # students in a command that is offered


def missing_section(chapter: Chapter, present: Sequence[str]) -> Section | None:
    """Return what the chapter lacks; None if it lacks nothing.

    Args:
        chapter: of the page.
        present: titles of the sections that it has.
    """
    students = [one for one in chapter.students if one.place is not None]
    teacher = chapter.teacher
    some = students[0] if students else teacher
    if some is None:
        return None
    path, master = _path(some), _path(teacher) if teacher else "TEACHER"
    against = ["--against", master] if students else []
    explain = ["explain", master, *(_path(one) for one in students[:EXPLAINED])]
    ground = ["--norm", chapter.conditions.norm, "--eps", f"{chapter.conditions.eps:.6g}"]
    pictured = "Input gradients and adversarial examples" in present
    rules: list[tuple[bool, str, list[str]]] = [
        (chapter.attack != "autoattack", "AutoAttack", ["evaluate", path, "--attacks", "clean,pgd-20,autoattack"]),
        ("Accuracy against eps" not in present, "Accuracy against eps", ["evaluate", path, "--sweep", "auto"]),
        (not any(one.findings for one in chapter.members), "Checks for masked gradients", ["evaluate", path]),
        ("Certified robustness" not in present, "Certified robustness", ["certify", path, *against]),
        (not chapter.explanations and bool(students), "Why, and the pictures", explain),
        (bool(chapter.explanations) and not pictured, "Pictures", [*explain, "--pictures", "6"]),
        (
            not chapter.suitabilities and teacher is not None,
            "Whether the teacher is worth distilling",
            ["suitable", master],
        ),
    ]
    items = [ListItem("", title=title, command=command_of(*parts, *ground)) for fits, title, parts in rules if fits]
    if "Training" not in present:
        items.append(ListItem("name the runs' own folders as well.", title="Training curves and costs"))
    if teacher is None:
        items.append(
            ListItem("an explanation or a run's config.yaml tells whose students these are.", title="The teacher")
        )
    return Section("Not measured, and how to get it", [Items(items)]) if items else None


def _path(member: ReportedModel) -> str:
    return str(member.run.folder) if member.run else member.identity.model or "MODEL"
