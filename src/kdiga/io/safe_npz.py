"""Arrays of numbers and text out of an .npz file that anybody may have written; nothing in it is unpickled."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import MAGIC_PREFIX, read_array_header_1_0, read_array_header_2_0, read_magic

from kdiga.errors import words_of

HEADERS = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
SMALL, PACKED = 2**28, 100  # bytes that any file may hold; times its size that a larger one may


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises:
        ValueError: if it cannot be read, holds objects, or unpacks to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
            if unpacked > max(SMALL, PACKED * path.stat().st_size):
                raise ValueError(f"it unpacks to {unpacked:,} bytes, far more than its size")
            for part in parts.infolist():
                _check_size(parts, part)
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except Exception as error:  # a damaged header is parsed as Python, and its tokenizer has errors of its own
        raise ValueError(words_of(error, 400)) from None


def _check_size(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """Check that an array's header asks for no more memory than there are bytes; NumPy would take it at once."""
    with parts.open(part) as file:
        if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
            return  # no array: its bytes are taken as they are
        file.seek(0)
        read = HEADERS.get(read_magic(file))
        if read is None:
            raise ValueError(f"{part.filename} is an array of an unknown version")
        shape, _, kind = read(file)
    size = max(1, kind.itemsize) * math.prod(shape)  # text without letters takes no bytes, however much there is
    if size > part.file_size:
        raise ValueError(f"{part.filename} says that it holds {size:,} bytes, and has {part.file_size:,}")
