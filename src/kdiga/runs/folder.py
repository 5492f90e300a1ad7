"""The folder of a run: what it holds, and when a new run may use it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from kdiga.errors import InputError, reason_of, words_of
from kdiga.io.atomic_write import write_atomically
from kdiga.io.file_lock import file_lock
from kdiga.io.safe_json_yaml import load_json, parse_yaml

LARGEST = 1e18  # no figure of a run comes near, and what is more overflows in text
CONFIG, RESULT, JOURNAL = "config.yaml", "result.json", "journal.jsonl"
OURS = (
    CONFIG,
    RESULT,
    JOURNAL,
    "best.safetensors",
    "last.safetensors",
    "state.pt",
    "report.html",
    "explanation.json",
    "explanation.npz",
)


def prepare_run_folder(folder: Path, *, overwrite: bool, resume: bool | None = None) -> None:
    """Make a folder ready for a run.

    Args:
        folder: created if need be.
        overwrite: kdiga's own files in it may be removed; others are never touched.
        resume: an unfinished or finished run in it is to be continued; None where that is not on offer.

    Raises:
        InputError: if it already holds a run and neither is asked for, or cannot be written to.
    """
    if resume and overwrite:
        raise InputError("both --resume and --overwrite were given; the one continues what the other removes.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [name for name in OURS if (folder / name).exists()]
        if present and overwrite:
            for name in present:
                (folder / name).unlink()
        elif present and not resume:
            way = "" if resume is None else "continue it with --resume, "
            raise InputError(
                f"output folder {str(folder)!r} already holds a run ({present[0]}); {way}replace it with --overwrite, "
                "or choose another --out."
            )
        try_writing(folder)
    except OSError as error:
        raise _unusable(folder, error.strerror) from None


def check_usable(folder: Path) -> None:
    """Check that a folder can be made, or written to where it is there; nothing is touched.

    Raises:
        InputError: if not.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise _unusable(folder, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unusable(folder, "it cannot be written to")


def _unusable(folder: Path, reason: str | None) -> InputError:
    return InputError(f"output folder {str(folder)!r} cannot be used ({reason}); choose another --out.")


@contextmanager
def exclusive_run(folder: Path) -> Generator[None]:
    """Keep other processes from running in the same folder while the block runs.

    Raises:
        InputError: if one does, or the folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(file_lock(folder, "run"))
        except OSError as error:
            raise _unusable(folder, error.strerror) from None
        if not mine:
            raise InputError(
                f"another process is at the run in {str(folder)!r}; wait until it ends, or choose another --out."
            )
        yield


def try_writing(folder: Path) -> None:
    """Write into a folder and leave no trace.

    Raises:
        OSError: if that cannot be done.
    """
    probe = folder / f".writable-{os.getpid()}"  # two processes may try at once
    probe.touch()
    probe.unlink(missing_ok=True)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the resolved recipe."""
    write_atomically(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the resolved recipe of a run, or None where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        loaded, _ = parse_yaml(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({words_of(error)}).") from None
    return loaded if isinstance(loaded, dict) else None


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result of a finished run.

    Raises:
        InputError: if it is damaged.
    """
    path = folder / RESULT
    try:
        found = load_json(path)
        records = [found["validation"][which] for which in ("best", "last")]
        sound = all(_may_be_number(one[name]) for one in records for name in ("epoch", "clean", "robust"))
        if sound and _may_be_number(found["minutes"]):
            return cast("dict[str, Any]", found)
        reason = "it holds no result"
    except (OSError, ValueError) as error:
        reason = reason_of(error)
    except (LookupError, TypeError):
        reason = "it holds no result"
    raise InputError(f"{str(path)!r} is damaged ({reason}); train the run again with --overwrite.")


def _may_be_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return number or value is None


def write_result(folder: Path, result: dict[str, Any], name: str = RESULT) -> None:
    """Write a result as JSON."""
    write_atomically(folder / name, json.dumps(result, indent=2) + "\n")
