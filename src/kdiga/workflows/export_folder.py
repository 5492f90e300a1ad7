"""The folder of an export: what it holds, and when a new export may use it."""

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
from kdiga.workflows.loaded_model import check_earlier_result, make_folder

FILE, CARD, HUB_CARD = "export.json", "model-card.md", "README.md"
UNFINISHED = "export.unfinished"  # says what an interrupted export was of, so that the same command may go on


def claim_export(folder: Path, identity: Mapping[str, Any], files: Sequence[str], *, overwrite: bool) -> dict[str, Any]:
    """Make a folder ready for an export, and return what ``export.json`` there says of the same model, {} for nothing.

    Args:
        folder: created if need be.
        identity: what two exports must share to stand in one folder.
        files: that are to be written.
        overwrite: files of ours may be replaced; others are never touched.

    Raises:
        InputError: if it holds another export, or some of the files, and they may not be replaced.
    """
    old = check_earlier_result(folder / FILE, identity, overwrite=overwrite)
    # What may have been read from JSON is compared with what was.
    same = json.loads(json.dumps(identity))
    going_on = _interrupted(folder) == same
    present = [name for name in files if (folder / name).exists()]
    if present and not overwrite and not going_on:
        raise InputError(
            f"{str(folder)!r} already holds an export ({present[0]}); replace it with --overwrite, or choose another "
            "--out. Formats that are not there yet are added."
        )
    make_folder(folder)
    if overwrite and not old:
        _remove(folder)
    write_atomically(folder / UNFINISHED, json.dumps(identity) + "\n")
    return old


def finish_export(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``export.json``, and note that nothing is left to do."""
    ExportResult.model_validate(content).write(folder / FILE)
    (folder / UNFINISHED).unlink(missing_ok=True)


def _interrupted(folder: Path) -> Any:
    try:
        return load_json(folder / UNFINISHED)
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    """Remove what an export of something else left, so that no file stands there unaccounted for."""
    for name in (FILE, CARD, LOADER, INFO, INT8_FILE, *(one.file for one in formats_by_name(available_formats()))):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
