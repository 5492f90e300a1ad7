"""Who may do a piece of shared work: whoever holds its lock file, which the system frees when a process ends."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".locks"


@contextmanager
def file_lock(out: Path, name: str, *, wait: bool = False) -> Generator[bool]:
    """Hold a lock while the block runs; the block is told whether it got it.

    Args:
        out: folder that the processes share.
        name: of what is locked; a path below the folder.
        wait: until it is free, instead of going without.

    Raises:
        OSError: if the folder cannot be written.
    """
    path = out / FOLDER / f"{name}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
