"""Files that somebody else may have made: only ordinary files of a sensible size are opened."""

from __future__ import annotations

import stat
from pathlib import Path

MOST_TEXT = 2**26  # bytes of a text file; the largest results are far smaller
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def check_ordinary(path: Path | str, most: int | None = None) -> None:
    """Check that a path, or what it links to, is an ordinary file; others may block for ever or have no end.

    Args:
        path: Path of the file.
        most: Largest size in bytes; None for any.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is something else, or too large.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"it is {KINDS.get(stat.S_IFMT(found.st_mode), 'a special file')}, not a file")
    if most is not None and found.st_size > most:
        raise ValueError(f"it has {found.st_size:,} bytes; at most {most:,} are read")


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Return the text of an ordinary file in UTF-8.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not an ordinary file of at most 64 MiB, or not in UTF-8.
    """
    check_ordinary(path, MOST_TEXT)
    return path.read_text(encoding="utf-8", errors=errors)
