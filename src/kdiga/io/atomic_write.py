"""Files that are there whole or not at all, and what to say when the disk will not."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdiga.errors import KdigaError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(KdigaError):
    """The disk did not take a file; what was there before is kept.

    Args:
        path: of the file.
        number: of the system's error.
    """

    def __init__(self, path: Path | str, number: int) -> None:
        full = number in FULL
        self.path, self.number, self.exit_status = path, number, 1 if full else 2
        remedy = (
            "Make room and give the same command again; `kdiga train` goes on with --resume."
            if full
            else "Choose a place that can be written."
        )
        super().__init__(
            f"{str(path)!r} cannot be written ({os.strerror(number)}); what was there before is kept. {remedy}"
        )

    def __reduce__(self) -> tuple[type[WriteError], tuple[Path | str, int]]:
        return type(self), (self.path, self.number)  # workers tell it to the process that started them


@contextmanager
def atomic_file(path: Path, *, shared: bool = False, durable: bool = False) -> Generator[Path]:
    """Give the block a file to write; at its end that replaces ``path`` at once, and on any error it is removed.

    Args:
        path: of the file to be there in the end, in a folder that is there.
        shared: other processes may write the same file at the same moment.
        durable: also if power fails.

    Raises:
        OSError: if the disk is full or cannot be written; :func:`replacing` tells of that in a line.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # a link there would have it written elsewhere
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path, *, shared: bool = False, durable: bool = False) -> Generator[Path]:
    """Do as :func:`atomic_file`.

    Raises:
        WriteError: if the disk is full or cannot be written.
    """
    with asking_the_disk(path), atomic_file(path, shared=shared, durable=durable) as partial:
        yield partial


def write_atomically(path: Path, text: str, *, shared: bool = False) -> None:
    """Replace a file's text at once or not at all.

    Raises:
        WriteError: if the disk is full or cannot be written.
    """
    with replacing(path, shared=shared) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def asking_the_disk(path: Path) -> Generator[None]:
    """Tell in a line why the disk did not do what the block asked for.

    Args:
        path: what it was about.

    Raises:
        WriteError: in place of the system's error, or of a library's that came of one.
    """
    try:
        yield
    except Exception as error:
        number = disk_error(error)
        if number is None:
            raise
        raise WriteError(path, number) from error


def disk_error(error: BaseException) -> int | None:
    """Return the number of the system's error behind an error, or None.

    torch.save raises an error of its own while it handles the system's; safetensors has only words for it.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None
