"""Which result files lie in some folders, and what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.errors import InputError
from kdiga.results.certificates import CertificateResult
from kdiga.results.evaluations import EvaluationResult, SuitabilityResult
from kdiga.results.explanations import ExplanationResult
from kdiga.results.exports import ExportResult
from kdiga.results.fields import DamagedError
from kdiga.results.runs import RunResult, rounds_among
from kdiga.results.shared import REPLACED, FileModel
from kdiga.results.studies import StudyResult

DEEPEST = 8  # a study's run has its certificates four folders down
SKIPPED = (REPLACED, "portions", ".locks", "__pycache__", "node_modules")
RUN = "config.yaml"  # stands for its run
FILES: dict[str, type[FileModel]] = {
    "evaluation.json": EvaluationResult,
    "best-test.json": EvaluationResult,
    "last-test.json": EvaluationResult,
    "certificate.json": CertificateResult,
    "explanation.json": ExplanationResult,
    "suitability.json": SuitabilityResult,
    "export.json": ExportResult,
    "study.json": StudyResult,
}


@dataclass(frozen=True)
class LeftOut:
    """A file that was found and not used, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Results:
    """All results that were found, and the files that could not be used."""

    evaluations: Sequence[EvaluationResult] = ()
    certificates: Sequence[CertificateResult] = ()
    explanations: Sequence[ExplanationResult] = ()
    suitabilities: Sequence[SuitabilityResult] = ()
    exports: Sequence[ExportResult] = ()
    studies: Sequence[StudyResult] = ()
    runs: Sequence[RunResult] = ()
    left_out: Sequence[LeftOut] = ()


def find_results(folders: Sequence[Path]) -> Results:
    """Read all result files in some folders and below.

    Args:
        folders: Folders, searched 8 levels deep without following links.

    Returns:
        What could be read, in the order of the folders and then of the paths, and what could not with the reason. A
        run's rounds are left out, but those with results of their own.

    Raises:
        InputError: if a folder does not exist, or nothing readable is in them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is not a folder; name folders of runs, studies or results.")
    by_kind: dict[type, list[Any]] = {kind: [] for kind in (*FILES.values(), RunResult)}  # as in Results
    left_out: list[LeftOut] = []
    paths = list(_distinct(folders))
    for path in paths:
        try:
            found = RunResult.read(path.parent) if path.name == RUN else FILES[path.name].read(path)
        except DamagedError as error:
            left_out.append(LeftOut(path, str(error)))
        else:
            by_kind[type(found)].append(found)
    judged = {parent.resolve() for path in paths if path.name != RUN for parent in path.parents}
    left = rounds_among(by_kind[RunResult]) - judged - {folder.resolve() for folder in folders}
    by_kind[RunResult] = [run for run in by_kind[RunResult] if run.folder.resolve() not in left]
    results = Results(*by_kind.values(), left_out=left_out)
    if not any(by_kind.values()):
        because = f"; {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        given = ", ".join(repr(str(folder)) for folder in folders)
        raise InputError(
            f"no readable result is in {given} (looked for {', '.join([*FILES, RUN])}){because}. Make one with "
            "`kdiga train`, `kdiga evaluate` or `kdiga explain`."
        )
    return results


def _distinct(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the paths of result files, each once."""
    seen = set[Path]()
    for folder in folders:
        for place, inner, names in os.walk(folder):
            depth = len(Path(place).relative_to(folder).parts)
            inner[:] = sorted(name for name in inner if name not in SKIPPED) if depth < DEEPEST else []
            for name in sorted(names):
                path = Path(place) / name
                if (name in FILES or name == RUN) and path.resolve() not in seen:
                    seen.add(path.resolve())
                    yield path
