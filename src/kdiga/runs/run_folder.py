"""The folder of a run: its files, and when a new run may use it."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from kdiga.errors import InputError, words_of
from kdiga.io.atomic_write import disk_error_as_write_error, write_atomically
from kdiga.io.file_lock import file_lock
from kdiga.io.safe_json_yaml import parse_yaml
from kdiga.io.untrusted_file import read_text
from kdiga.results.fields import DamagedError
from kdiga.results.runs import FinishedRun
from kdiga.results.shared import JUDGED, REPLACED

CONFIG, RESULT, JOURNAL, IDENTITY = "config.yaml", "result.json", "journal.jsonl", "identity.json"
FAILURE = "failure.json"
TRAINED_IMAGES = "trained-images.npz"  # hashes of the training images
OURS = (
    CONFIG,
    RESULT,
    JOURNAL,
    IDENTITY,
    FAILURE,
    TRAINED_IMAGES,
    "best.safetensors",
    "last.safetensors",
    "state.pt",
    "report.html",
    "explanation.json",
    "explanation.npz",
)
ABOUT_WEIGHTS = (  # results about a run's weights
    *JUDGED,
    "best-test.json",
    "last-test.json",
    "best-validation.json",
    "best-confirmed.json",
    "certificate.json",
)


def prepare_run_folder(folder: Path, *, overwrite: bool, resume: bool | None = None) -> None:
    """Prepare a folder for a run; it is created if necessary.

    Args:
        folder: Folder of the run.
        overwrite: Whether to remove kdiga's files in it. Results about the removed weights go to ``replaced/NUMBER``.
            Other files always stay.
        resume: Whether to continue a run in it; None if the command has no such option.

    Raises:
        InputError: If it contains a run and neither option is given, or it cannot be written to.
    """
    if resume and overwrite:
        raise InputError(
            "both --resume and --overwrite were given; --resume continues the run and --overwrite removes it. Give one."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [name for name in OURS if (folder / name).exists()]
        if overwrite:
            _set_aside(folder)
            for name in present:
                (folder / name).unlink(missing_ok=True)
        elif present and not resume:
            way = "" if resume is None else "continue it with --resume, "
            raise InputError(
                f"output folder {str(folder)!r} already holds a run ({present[0]}); {way}replace it with --overwrite, "
                "or choose another --out."
            )
        try_writing(folder)
    except OSError as error:
        raise _unusable(folder, error.strerror) from None


def _set_aside(folder: Path) -> None:
    """Move the results about a run's weights, with its recipe, to where no command takes them for a new run's."""
    present = [name for name in ABOUT_WEIGHTS if (folder / name).exists()]
    if not present:
        return
    number = next(number for number in itertools.count(1) if not (folder / REPLACED / str(number)).exists())
    place = folder / REPLACED / str(number)
    place.mkdir(parents=True)
    for name in (*present, CONFIG, RESULT, IDENTITY):
        if (folder / name).exists():
            (folder / name).rename(place / name)


def check_usable(folder: Path) -> None:
    """Check that a folder can be created or written to, without a change."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise _unusable(folder, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unusable(folder, "it cannot be written to")


def _unusable(folder: Path, reason: str | None) -> InputError:
    return InputError(f"output folder {str(folder)!r} cannot be used ({reason}); choose another --out.")


@contextmanager
def exclusive_run(folder: Path) -> Generator[None]:
    """Lock a run's folder against other processes inside.

    Raises:
        InputError: If another process uses it, or it cannot be written to.
    """
    with ExitStack() as stack:
        try:
            acquired = stack.enter_context(file_lock(folder, "run"))
        except OSError as error:
            raise _unusable(folder, error.strerror) from None
        if not acquired:
            raise InputError(
                f"run folder {str(folder)!r} is in use by another process; wait until it ends, or choose another --out."
            )
        yield


def try_writing(folder: Path) -> None:
    """Write a file into a folder and remove it."""
    probe = folder / f".writable-{os.getpid()}"  # a different name for each process
    probe.touch()
    probe.unlink(missing_ok=True)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the resolved recipe."""
    write_atomically(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the resolved recipe of a run, or None if there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        loaded, _ = parse_yaml(read_text(path))
    except (ValueError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({words_of(error)}).") from None
    return loaded if isinstance(loaded, dict) else None


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result of a finished run.

    Raises:
        InputError: If it is damaged.
    """
    path = folder / RESULT
    try:
        return FinishedRun.read(path).to_dict()
    except DamagedError as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); train the run again with --overwrite.") from None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the result of a finished run."""
    FinishedRun.model_validate(result).write(folder / RESULT, indent=2)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data as JSON."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


class Journal:
    """Appends events to the journal of a run: one JSON object a line, readable during the run.

    Args:
        path: Path of the JSON-lines file; None only counts the events.
        keep: Number of present lines that belong to the run. Later lines, from after the checkpoint that a resumed run
            starts from, are removed.
    """

    def __init__(self, path: Path | None, *, keep: int = 0) -> None:
        self.path = path
        self.count = keep
        if path is None:
            return
        text = path.read_text(encoding="utf-8", errors="replace") if keep and path.is_file() else ""
        write_atomically(path, "".join(text.splitlines(keepends=True)[:keep]))

    def write(self, event: dict[str, Any]) -> None:
        """Append an event."""
        self.count += 1
        if self.path is not None:
            with disk_error_as_write_error(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
