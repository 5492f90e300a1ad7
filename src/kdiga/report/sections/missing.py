"""What was not measured, and the command that measures it."""

from __future__ import annotations

from collections.abc import Sequence

from kdiga.report.chapters import Chapter, Member
from kdiga.report.headers import command_of
from kdiga.report.sections.parts import Item, Items, Section


def missing_section(chapter: Chapter, present: Sequence[str]) -> Section | None:
    """Return what the chapter lacks; None if it lacks nothing.

    Args:
        chapter: of the page.
        present: titles of the sections that it has.
    """
    students = [one for one in chapter.students if one.place is not None]
    student = students[0] if students else None
    teacher = chapter.teacher
    some = student or teacher or next(iter(chapter.members), None)
    if some is None:
        return None
    ground = ["--norm", chapter.ground.norm, "--eps", f"{chapter.ground.eps:.6g}"]
    items: list[Item] = []
    if chapter.attack != "autoattack":
        items.append(_item("AutoAttack", "evaluate", _path(some), "--attacks", "clean,pgd-20,autoattack", *ground))
    if "Accuracy against eps" not in present:
        half = f"{chapter.ground.eps / 2:.6g}"
        items.append(
            _item("Accuracy against eps", "evaluate", _path(some), "--norm", chapter.ground.norm, "--eps", half)
        )
    if not any(one.findings for one in chapter.members):
        items.append(_item("Checks for masked gradients", "evaluate", _path(some), *ground))
    if "Certified robustness" not in present:
        against = ["--against", _path(teacher)] if teacher and student else []
        items.append(_item("Certified robustness", "certify", _path(some), *against, *ground))
    if not chapter.explanations and student:
        taught = [_path(one) for one in students[:4]]
        items.append(
            _item("Why, and the pictures", "explain", _path(teacher) if teacher else "TEACHER", *taught, *ground)
        )
    if not chapter.suitabilities and teacher:
        items.append(_item("Whether the teacher is worth distilling", "suitable", _path(teacher), *ground))
    if teacher is None:
        items.append(
            Item("No teacher is known here. kdiga explain names one, or a run's config.yaml.", title="A teacher")
        )
    return Section("Not measured, and how to get it", [Items(items)]) if items else None


def _item(title: str, *parts: str) -> Item:
    return Item("", title=title, command=command_of(*parts))


def _path(member: Member) -> str:
    return str(member.run.folder) if member.run else member.identity.model or "MODEL"
