"""Out-of-memory errors that say what to reduce, in place of the allocator's message."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

import torch

from kdiga.errors import OutOfMemoryError

# A CPU's allocator, and libraries on a GPU, raise a bare RuntimeError; oneDNN does not even name memory.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|_ALLOC_FAILED|could not create a primitive(?! desc)"
)
REQUESTED = re.compile(r"[Tt]ried to allocate ([\d.,]+ ?\w+)")


@contextmanager
def out_of_memory_as_error(remedy: str) -> Generator[None]:
    """Raise an error that says what to reduce if memory runs out inside.

    Args:
        remedy: What was requested and what to reduce, as the end of a sentence.

    Raises:
        OutOfMemoryError: in place of the allocator's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(describe_out_of_memory(error, remedy)) from error


def describe_out_of_memory(error: BaseException, remedy: str) -> str:
    """Return the message of an allocator's error in one line."""
    requested = REQUESTED.search(str(error))
    where = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) or "CU" in str(error) else "memory"
    return f"{where} ran out{f' ({requested[1]} more were requested)' if requested else ''}: {remedy}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
    )
