"""Atomic writes: a file is complete or absent, and a disk error becomes one line."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdiga.errors import KdigaError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(KdigaError):
    """A file could not be written; its earlier content is unchanged.

    Args:
        path: Path of the file.
        number: The system's error number.
    """

    def __init__(self, path: Path | str, number: int) -> None:
        full = number in FULL
        self.path, self.number, self.exit_status = path, number, 1 if full else 2
        remedy = (
            "Make room and give the same command again; `kdiga train` continues with --resume."
            if full
            else "Choose a folder that can be written."
        )
        super().__init__(
            f"{str(path)!r} cannot be written ({os.strerror(number)}); its earlier content is unchanged. {remedy}"
        )

    def __reduce__(self) -> tuple[type[WriteError], tuple[Path | str, int]]:
        return type(self), (self.path, self.number)  # workers send it to the process that started them


@contextmanager
def atomic_file(path: Path, *, shared: bool = False, durable: bool = False) -> Generator[Path]:
    """Give the block a partial file to write. It replaces ``path`` at the end, and is removed on an error.

    Args:
        path: Path of the final file, in a folder that exists.
        shared: Whether other processes may write the same file at the same time.
        durable: Whether the file must survive a power failure.

    Raises:
        OSError: if the disk is full or cannot be written; :func:`replacing` raises a :class:`WriteError` instead.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # a link of this name would move the content elsewhere
        mode = _mode_of_a_new_file(partial)
        yield partial
        partial.chmod(mode)  # some libraries make private files, whatever the umask
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to raise
            partial.unlink(missing_ok=True)
        raise


def _mode_of_a_new_file(path: Path) -> int:
    """Return the access rights that the umask gives to a new file; Python cannot read the umask without a change."""
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    path.unlink()
    return stat.S_IMODE(mode)


@contextmanager
def replacing(path: Path, *, shared: bool = False, durable: bool = False) -> Generator[Path]:
    """Replace a file as :func:`atomic_file` does.

    Raises:
        WriteError: if the disk is full or cannot be written.
    """
    with disk_error_as_write_error(path), atomic_file(path, shared=shared, durable=durable) as partial:
        yield partial


def write_atomically(path: Path, text: str, *, shared: bool = False) -> None:
    """Replace a file's text atomically.

    Raises:
        WriteError: if the disk is full or cannot be written.
    """
    with replacing(path, shared=shared) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def disk_error_as_write_error(path: Path) -> Generator[None]:
    """Raise :class:`WriteError` for ``path`` in place of a disk error of the block.

    Raises:
        WriteError: in place of the system's error, or of a library's error that it caused.
    """
    try:
        yield
    except Exception as error:
        number = disk_error(error)
        if number is None:
            raise
        raise WriteError(path, number) from error


def disk_error(error: BaseException) -> int | None:
    """Return the system's error number behind an error, or None.

    torch.save raises another error while it handles the system's; safetensors only quotes it in its message.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    quoted = re.search(r"\(os error (\d+)\)", str(error))
    return int(quoted[1]) if quoted else None
