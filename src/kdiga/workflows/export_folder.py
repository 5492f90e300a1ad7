"""The folder of an export: its files, and when a new export may use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.errors import InputError
from kdiga.export.formats import available_formats, formats_by_name
from kdiga.export.onnx_file import INT8_FILE
from kdiga.export.robustbench_files import INFO, LOADER
from kdiga.io.atomic_write import write_atomically
from kdiga.io.safe_json_yaml import load_json
from kdiga.results.exports import ExportResult
from kdiga.workflows.judging import ResultFolder

FILE, CARD, HUB_CARD = "export.json", "model-card.md", "README.md"
UNFINISHED = "export.unfinished"  # identity of an interrupted export, so that the same command may continue


def claim_export(folder: Path, identity: Mapping[str, Any], files: Sequence[str], *, overwrite: bool) -> ResultFolder:
    """Prepare a folder for an export, and return its ``export.json``.

    Args:
        folder: Created if need be.
        identity: Plain data; exports with equal values share the folder.
        files: Names of the files to write.
        overwrite: Whether files of an export may be replaced; others are never touched.

    Raises:
        InputError: If it holds another export, or some of the files, and they may not be replaced.
    """
    results = ResultFolder(folder, FILE, ExportResult, identity, overwrite=overwrite)
    present = [name for name in files if (folder / name).exists()]
    # Lists and tuples are equal in JSON alone.
    if present and not overwrite and _interrupted(folder) != json.loads(json.dumps(identity)):
        raise InputError(
            f"{str(folder)!r} already holds an export ({present[0]}); replace it with --overwrite, or choose another "
            "--out. Formats that are not there yet are added."
        )
    if overwrite and not results.earlier:
        _remove(folder)
    write_atomically(folder / UNFINISHED, json.dumps(identity) + "\n")
    return results


def finish_export(folder: Path) -> None:
    """Note that the export in a folder is complete."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def _interrupted(folder: Path) -> Any:
    try:
        return load_json(folder / UNFINISHED)
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    """Remove the files of an export of something else, so that every file in the folder is in ``export.json``."""
    for name in (FILE, CARD, LOADER, INFO, INT8_FILE, *(one.file for one in formats_by_name(available_formats()))):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
