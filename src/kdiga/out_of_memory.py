"""Memory that ran out: told with what to reduce, in place of the allocator's own words."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

import torch

from kdiga.errors import OutOfMemoryError

# A CPU's allocator, and libraries on a GPU, raise a bare RuntimeError; oneDNN does not even name memory.
TOLD = re.compile(
    r"can't allocate memory|not enough memory|out of memory|_ALLOC_FAILED|could not create a primitive(?! desc)"
)
WANTED = re.compile(r"[Tt]ried to allocate ([\d.,]+ ?\w+)")


@contextmanager
def out_of_memory_as_error(remedy: str) -> Generator[None]:
    """Tell, where memory runs out inside, what to reduce.

    Args:
        remedy: what was asked for and what to reduce, as the end of a sentence.

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
    """Return what to tell of a shortage in one line."""
    wanted = WANTED.search(str(error))
    where = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) or "CU" in str(error) else "memory"
    return f"{where} ran out{f' ({wanted[1]} more were asked for)' if wanted else ''}: {remedy}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and TOLD.search(str(error)) is not None
    )
