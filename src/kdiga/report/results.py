"""All that was found in some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.report.explained import Explanation
from kdiga.report.exports import Export
from kdiga.report.radii import Certificate
from kdiga.report.records import Evaluation, Run, Suitability


@dataclass(frozen=True)
class LeftOut:
    """A file that was found and not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Results:
    """All that was found.

    Args:
        evaluations: attacked models.
        certificates: certified models.
        explanations: of teachers with their students.
        suitabilities: of teachers.
        exports: models as files for other programs.
        runs: with their journals.
        studies: folder and content of each ``study.json``.
        left_out: files that could not be used.
    """

    evaluations: Sequence[Evaluation] = ()
    certificates: Sequence[Certificate] = ()
    explanations: Sequence[Explanation] = ()
    suitabilities: Sequence[Suitability] = ()
    exports: Sequence[Export] = ()
    runs: Sequence[Run] = ()
    studies: Sequence[tuple[Path, Mapping[str, Any]]] = ()
    left_out: Sequence[LeftOut] = ()

    def __bool__(self) -> bool:
        found = (self.evaluations, self.certificates, self.explanations, self.suitabilities, self.exports, self.runs)
        return any((*found, self.studies))
