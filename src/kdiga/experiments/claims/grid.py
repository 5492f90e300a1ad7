"""Which teachers, students, methods and seeds a claims recipe crosses, by their labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from kdiga.errors import nearest
from kdiga.experiments.settings import check_keys
from kdiga.recipes.source import Keys, YamlSource

LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
RESERVED = ("teachers", "starts", "tuning", "claims.json", "claims.md")  # what lies beside the methods' folders
OF_PRETRAINED = ["students", "teachers", "training", "methods", "tune_trials", "tune_epochs", "at_most"]


@dataclass(frozen=True)
class Pair:
    """A student and whom it learns from.

    Args:
        teacher: its label.
        student: its label.
        pretrained: whether the student starts from weights that classify already.
    """

    teacher: str
    student: str
    pretrained: bool = False

    @property
    def name(self) -> str:
        """Of folders and tables."""
        return f"{self.teacher}-to-{self.student}"


@dataclass(frozen=True)
class Grid:
    """The labels of everything that is crossed.

    Args:
        pairs: of teacher and student.
        judged: methods whose claims are tested, the paper's own first.
        seeds: of every student.
    """

    pairs: tuple[Pair, ...]
    judged: tuple[str, ...]
    seeds: tuple[int, ...]

    @classmethod
    def read(cls, source: YamlSource, problems: list[str]) -> Grid:
        """Read the labels; what is wrong with them is added to ``problems``."""
        reader = _GridReader(source, problems)
        teachers, methods = reader.labels(("teachers",)), reader.labels(("methods",), RESERVED)
        pairs = reader.pairs(("pairs",), teachers, reader.labels(("students",)), pretrained=False)
        if source.data.get("pretrained") is not None:
            section = reader.section(("pretrained",))
            check_keys(source, ("pretrained",), section, OF_PRETRAINED, problems)
            reader.check_pretrained(section)
            students = reader.labels(("pretrained", "students"))
            pairs += reader.pairs(("pretrained", "teachers"), teachers, students, pretrained=True)
            problems += [
                source.problem(("pretrained", "methods", str(label)), "is not among methods")
                for label in reader.section(("pretrained", "methods"))
                if label not in methods
            ]
            problems += [
                source.problem(("pretrained", "students", label), "stands among students, too")
                for label in reader.section(("students",))
                if label in students
            ]
        judged = reader.names(("judged",), methods, "methods")
        return cls(tuple(pairs), tuple(judged), reader.seeds())


class _GridReader:
    def __init__(self, source: YamlSource, problems: list[str]) -> None:
        self.source, self.problems = source, problems

    def problem(self, keys: Keys, message: str) -> None:
        self.problems.append(self.source.problem(keys, message))

    def section(self, keys: Keys) -> dict[Any, Any]:
        place: Any = self.source.data
        for key in keys:
            place = cast("dict[str, Any]", place).get(key) if isinstance(place, dict) else None
        return cast("dict[Any, Any]", place) if isinstance(place, dict) else {}

    def labels(self, keys: Keys, reserved: tuple[str, ...] = ()) -> list[str]:
        """Return the labels of a section that has to have some."""
        given = self.section(keys)
        if not given:
            self.problem(keys, "missing section; it lists at least one by a label")
        for label in given:
            if not isinstance(label, str) or not LABEL.fullmatch(label) or "-to-" in label:
                self.problem((*keys, str(label)), f"{label!r} is no label; use letters, digits, '_', '-' and '.'")
            elif label.lower() in reserved:
                self.problem((*keys, label), "is a name the folders need; rename it")
        return [str(label) for label in given]

    def names(self, keys: Keys, known: list[str], where: str) -> list[str]:
        """Return a list of labels that stand in another section."""
        place: Any = self.section(keys[:-1]) if keys[:-1] else self.source.data
        given: Any = cast("Mapping[str, Any]", place).get(keys[-1])
        if not isinstance(given, list) or not given:
            self.problem(keys, f"was {given!r}; list at least one of {where}: {', '.join(known)}")
            return []
        for name in cast("list[Any]", given):
            if name not in known:
                close = nearest(str(name), known, most=1)
                hint = f"did you mean {close[0]}?" if close else f"accepted: {', '.join(known)}"
                self.problem(keys, f"{name!r} is not among {where}; {hint}")
        if len(set(map(str, given))) < len(given):
            self.problem(keys, f"was {given!r}; list each once")
        return [str(name) for name in cast("list[Any]", given)]

    def pairs(self, keys: Keys, teachers: list[str], students: list[str], *, pretrained: bool) -> list[Pair]:
        """Return the pairs; without a word about them, everyone learns from everyone."""
        place: Any = self.section(keys[:-1]) if keys[:-1] else self.source.data
        given: Any = cast("Mapping[str, Any]", place).get(keys[-1])
        if given is None:
            return [Pair(teacher, student, pretrained) for teacher in teachers for student in students]
        if pretrained:
            chosen = self.names(keys, teachers, "teachers")
            return [Pair(teacher, student, True) for teacher in chosen for student in students]
        if not isinstance(given, dict) or not given:
            self.problem(keys, f"was {given!r}; it is a section: TEACHER: [STUDENT, ...]")
            return []
        found = list[Pair]()
        for teacher in cast("dict[Any, Any]", given):
            if not isinstance(teacher, str) or teacher not in teachers:
                self.problem((*keys, str(teacher)), f"{teacher!r} is not among teachers: {', '.join(teachers)}")
                continue
            found += [Pair(teacher, student) for student in self.names((*keys, teacher), students, "students")]
        return found

    def check_pretrained(self, section: Mapping[str, Any]) -> None:
        """Check what the section says beside students and teachers."""
        methods, lost = section.get("methods"), section.get("at_most", 1.0)
        if methods is not None and not isinstance(methods, dict):
            self.problem(("pretrained", "methods"), f"was {methods!r}; it is a section of methods by label")
        if type(lost) not in (int, float) or not 0 <= lost <= 100:
            self.problem(("pretrained", "at_most"), f"was {lost!r}; it is a number of points from 0 to 100")
        for key in ("tune_trials", "tune_epochs"):
            count = section.get(key)
            if count is not None and (type(count) is not int or count < 1):
                self.problem(("pretrained", key), f"was {count!r}; it is a whole number of at least 1")

    def seeds(self) -> tuple[int, ...]:
        seeds: Any = self.source.data.get("seeds", [0])
        whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in cast("list[Any]", seeds))
        if not whole or not seeds or len(set(cast("list[int]", seeds))) < len(cast("list[int]", seeds)):
            self.problem(("seeds",), f"was {seeds!r}; it is a list of at least one seed, each once, such as [0, 1]")
            return (0,)
        return tuple(cast("list[int]", seeds))
