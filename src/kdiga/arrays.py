"""Arrays of numbers and text out of an .npz file that anybody may have written; nothing in it is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except ValueError:
        raise
    except Exception as error:  # a damaged header is parsed as Python, and its tokenizer has errors of its own
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
