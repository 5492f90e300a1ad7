"""Which result files lie in some folders, and what they say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdiga.errors import InputError
from kdiga.io.safe_json_yaml import parse_json
from kdiga.report.certificates import read_certificate
from kdiga.report.evaluations import read_evaluation, read_suitability
from kdiga.report.explained import Explanation
from kdiga.report.explanations import read_explanation
from kdiga.report.exports import Export, read_export
from kdiga.report.radii import Certificate
from kdiga.report.records import Evaluation, Run, Suitability
from kdiga.report.results import LeftOut, Results
from kdiga.report.runs import read_run
from kdiga.report.studies import check_study
from kdiga.report.validation import DamagedError, record

DEEPEST = 8  # a study's run has its certificates four folders down
SKIPPED = ("portions", ".locks", "__pycache__", "node_modules")
# A file's kind by its name; "config.yaml" stands for its run.
KINDS = {
    "evaluation.json": "evaluation",
    "best-test.json": "evaluation",
    "last-test.json": "evaluation",
    "certificate.json": "certificate",
    "explanation.json": "explanation",
    "suitability.json": "suitability",
    "export.json": "export",
    "study.json": "study",
    "config.yaml": "run",
}


@dataclass
class _Found:
    evaluations: list[Evaluation] = field(default_factory=list[Evaluation])
    certificates: list[Certificate] = field(default_factory=list[Certificate])
    explanations: list[Explanation] = field(default_factory=list[Explanation])
    suitabilities: list[Suitability] = field(default_factory=list[Suitability])
    exports: list[Export] = field(default_factory=list[Export])
    runs: list[Run] = field(default_factory=list[Run])
    studies: list[tuple[Path, Mapping[str, Any]]] = field(default_factory=list[tuple[Path, Mapping[str, Any]]])
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])


def find_results(folders: Sequence[Path]) -> Results:
    """Read all result files in some folders and below.

    Args:
        folders: looked through 8 levels deep, without following links.

    Returns:
        what could be read, in the order of the folders and then of the paths, and what could not with the reason.

    Raises:
        InputError: if a folder is none, or nothing readable is in them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is no folder; name folders of runs, studies or results.")
    found, seen = _Found(), set[Path]()
    for folder in folders:
        for path in _walk(folder):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _take(path, found)
    results = Results(**vars(found))
    if not results:
        because = f"; {found.left_out[0].path}: {found.left_out[0].reason}" if found.left_out else ""
        given = ", ".join(repr(str(folder)) for folder in folders)
        raise InputError(
            f"no readable result is in {given} (looked for {', '.join(KINDS)}){because}. Make one with "
            "`kdiga train`, `kdiga evaluate` or `kdiga explain`."
        )
    return results


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name not in SKIPPED) if depth < DEEPEST else []
        for name in sorted(files):
            if name in KINDS:
                yield Path(place) / name


def _take(path: Path, found: _Found) -> None:
    kind = KINDS[path.name]
    try:
        if kind == "run":
            found.runs.append(read_run(path.parent))
            return
        content = _content(path, kind)
        if kind == "study":
            found.studies.append((path.parent, check_study(content)))
        else:
            reader, shelf = _readers(found)[kind]
            shelf.append(reader(path, content))
    except (DamagedError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if isinstance(error, DamagedError) else f"it has another form than its kind ({error!r:.60})"
        found.left_out.append(LeftOut(path, reason))


def _readers(found: _Found) -> Mapping[str, tuple[Callable[[Path, Mapping[str, Any]], Any], list[Any]]]:
    return {
        "evaluation": (read_evaluation, found.evaluations),
        "certificate": (read_certificate, found.certificates),
        "explanation": (read_explanation, found.explanations),
        "suitability": (read_suitability, found.suitabilities),
        "export": (read_export, found.exports),
    }


def _content(path: Path, kind: str) -> Mapping[str, Any]:
    try:
        written = path.read_text()
        content = record(json.loads(written, parse_constant=_refuse), "the file")
        parse_json(written)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"it is no readable JSON ({error})") from None
    if "\\u0000" in written:
        raise DamagedError("it holds a null character")
    if content.get("kind", kind) != kind:
        raise DamagedError(f"it says that it is of kind {content['kind']!r:.40}, not {kind!r}")
    return content


def _refuse(constant: str) -> None:
    raise DamagedError(f"it holds {constant}, which is no number")
