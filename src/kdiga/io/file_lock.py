"""Lock files for work that processes share; the system frees a lock when its process ends."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".locks"


@contextmanager
def file_lock(out: Path, name: str, *, wait: bool = False) -> Generator[bool]:
    """Take a lock for the block and yield whether it was free.

    Args:
        out: Folder that the processes share.
        name: Name of the lock, a path below the folder.
        wait: Whether to wait until the lock is free.

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
