"""Arrays of numbers and text from an untrusted .npz file; nothing in it is unpickled."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import MAGIC_PREFIX, read_array_header_1_0, read_array_header_2_0, read_magic

from kdiga.errors import words_of
from kdiga.io.untrusted_file import check_ordinary

HEADERS = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
SMALL, RATIO = 2**28, 100  # bytes that any file may unpack to; largest ratio to the size of a larger file


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises:
        ValueError: if it cannot be read, holds objects, or unpacks to far more than its size.
    """
    try:
        check_ordinary(path)
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
            if unpacked > max(SMALL, RATIO * path.stat().st_size):
                raise ValueError(f"it unpacks to {unpacked:,} bytes, far more than its size")
            for part in parts.infolist():
                _check_size(parts, part)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy parses a header as Python, whose tokenizer raises other errors
        raise ValueError(words_of(error, 400)) from None


def _check_size(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """Check that an array's header does not claim more bytes than the file has; NumPy would allocate them at once."""
    with parts.open(part) as file:
        if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
            return  # not an array: NumPy returns its bytes
        file.seek(0)
        read = HEADERS.get(read_magic(file))
        if read is None:
            raise ValueError(f"{part.filename} is an array of an unknown version")
        shape, _, kind = read(file)
    size = max(1, kind.itemsize) * math.prod(shape)  # empty text takes no bytes, for any number of items
    if size > part.file_size:
        raise ValueError(f"{part.filename} says that it holds {size:,} bytes, and has {part.file_size:,}")
