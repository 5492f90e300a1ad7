"""A store's files: written whole or not at all, removed and no others, and what to say when the disk will not."""

from __future__ import annotations

from pathlib import Path

from kdiga.errors import InputError, KdigaError
from kdiga.io.atomic_write import FULL, atomic_file
from kdiga.teachers.manifest import FILE


class StoreFullError(KdigaError):
    """The disk had no room for the next shard; those before it are kept."""

    exit_status = 1


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file at once or not at all, even if power fails."""
    with atomic_file(path, durable=True) as partial:
        partial.write_bytes(content)


def clear(folder: Path) -> None:
    """Remove a store's files and no others."""
    (folder / FILE).unlink(missing_ok=True)
    for view in folder.glob("view-*"):
        for suffix in (".json", ".npy", ".json.partial", ".npy.partial"):
            for path in view.glob(f"[0-9]*{suffix}"):
                path.unlink()
        if not any(view.iterdir()):
            view.rmdir()


def trouble(error: OSError, folder: Path) -> KdigaError:
    """Return the error to raise in place of one of the system's."""
    if error.errno in FULL:
        return StoreFullError(
            f"the disk is full ({error.strerror}): what is stored in {str(folder)!r} so far is kept. Make room, and "
            "the same command goes on."
        )
    return InputError(
        f"the teacher cache in {str(folder)!r} cannot be written ({error.strerror}); choose another cache.folder."
    )
