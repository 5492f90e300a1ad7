"""The fields that all result files share."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.report.records import Finding, Ground, Identity, Origin
from kdiga.report.validation import DamagedError, fields, listing, number, record, text, whole_number

VERDICTS = ("failed", "warning", "skipped", "passed")
JUDGED = ("evaluation", "certification", "suitability", "explanation", "export")


def ground_of(content: Mapping[str, Any]) -> Ground:
    """Return data and threat model.

    Raises:
        DamagedError: if they are not there.
    """
    threat = record(content.get("threat"), "threat")
    norm, data = text(threat.get("norm")), text(content.get("data"))
    if norm not in ("linf", "l2") or not data:
        raise DamagedError("it names no data set, or no norm of the threat model (linf or l2)")
    return Ground(data, norm, number(threat.get("eps"), "eps"), text(content.get("data_fingerprint")) or None)


def file_identity(content: Mapping[str, Any], path: Path | None = None) -> Identity:
    """Return which model a result is about.

    Args:
        content: the file's, or the part that describes a model.
        path: of the file, where it lies in the model's own run.
    """
    return Identity(
        model=text(content.get("model")),
        which=text(content.get("which")) or None,
        architecture=text(content.get("architecture")),
        parameters=whole_number(content.get("parameters")),
        fingerprint=text(content.get("fingerprint")) or None,
        folder=None if path is None else run_folder(path),
        name=text(content.get("name")),
    )


def run_folder(path: Path) -> Path | None:
    """Return the folder of the run that a result file lies in; None if it lies in none."""
    folder = path.parent
    if folder.parent.name in JUDGED:
        folder = folder.parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def origin_of(content: Mapping[str, Any], path: Path, again: str = "") -> Origin:
    """Return where a result comes from.

    Args:
        content: the file's.
        path: of the file.
        again: a command that measures the same, for files that do not say theirs.
    """
    command = text(content.get("command"))
    return Origin(
        path, command or again, bool(command), fields(content.get("provenance")), whole_number(content.get("seed"))
    )


def findings_of(content: Mapping[str, Any]) -> list[Finding]:
    """Return the findings of a file.

    Raises:
        DamagedError: if one has no verdict that is known.
    """
    found: list[Finding] = []
    for entry in listing(content.get("findings") or [], "findings"):
        finding = record(entry, "a finding")
        verdict = text(finding.get("verdict"))
        if verdict not in VERDICTS:
            raise DamagedError(f"a finding's verdict is {verdict!r:.30}, not one of {', '.join(VERDICTS)}")
        found.append(Finding(text(finding.get("name"), "unnamed"), verdict, text(finding.get("message"))))
    return found


def command_of(*parts: object) -> str:
    """Return a command line, quoted as a shell needs it; None among the parts is left out."""
    return shlex.join(["kdiga", *(str(part) for part in parts if part is not None)])


def names(values: Sequence[str]) -> str:
    """Return names as they are listed in a sentence."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}" if values else ""
