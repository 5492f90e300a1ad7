"""The table of docs/methods.md is what the methods declare."""

from __future__ import annotations

import re
from pathlib import Path

from kdiga.methods import available_methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def rows():
    for line in PAGE.read_text().splitlines():
        match = re.match(r"\| `([a-z-]+)` \|.*\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", line)
        if match and "+" in match[2]:
            yield match.groups()


def test_every_method_is_in_the_table_with_what_it_costs():
    found = {name: (student, teacher, asks) for name, student, teacher, asks in rows()}
    expected = {}
    for name, method in available_methods().items():
        needs = method().needs
        teacher = f"{needs.teacher.forwards}+{needs.teacher.backwards}" if needs.teachers else "-"
        teacher += " of 2" * (needs.teachers == 2) + " trained" * needs.trains_teacher
        asks = ("yes" if needs.teacher_queries else "no") if needs.teachers else "-"
        expected[name] = (f"{needs.student.forwards}+{needs.student.backwards}", teacher, asks)
    assert found == expected
