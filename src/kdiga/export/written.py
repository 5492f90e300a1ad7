"""A model's files in a folder: written, read back, and known by their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kdiga.export.formats import Format, Logits
from kdiga.export.int8 import FILE as INT8_FILE
from kdiga.export.int8 import NAME as INT8
from kdiga.export.int8 import write_int8
from kdiga.export.onnx_file import ONNX, read_onnx
from kdiga.models import Classifier
from kdiga.runs.provenance import installed_version

REFERENCE = "pytorch"  # the model itself, with which files are compared


@dataclass(frozen=True)
class Written:
    """A file or folder that was written.

    Args:
        name: of its format; "onnx-int8" for the quantised one.
        path: of it.
        call: its function, in as many threads as PyTorch used when it was read.
        runtime: what runs it, with its version.
        is_model: see :class:`kdiga.export.Format`.
    """

    name: str
    path: Path
    call: Logits
    runtime: str
    is_model: bool = False

    @property
    def size(self) -> int:
        """Bytes of the file, or of a folder's files that the model needs."""
        return sum(path.stat().st_size for path in _files(self.path))

    def digest(self) -> str:
        """Return the SHA-256 of the file, or of a folder's files in order of their names."""
        found = hashlib.sha256()
        for path in _files(self.path):
            found.update(path.read_bytes())
        return found.hexdigest()


def write_all(
    model: Classifier, formats: Sequence[Format], folder: Path, calibration: Tensor | None = None
) -> list[Written]:
    """Write a model in some formats and read each back.

    Args:
        model: in eval mode, on the CPU.
        formats: to write.
        folder: that exists.
        calibration: float (example, channel, height, width) in [0, 1], training images: quantise the ONNX file with
            them as well; None does not.

    Raises:
        InputError: for a network that a format cannot hold.
    """
    found: list[Written] = []
    for entry in formats:
        path = folder / entry.file
        entry.write(model, path)
        found.append(Written(entry.name, path, entry.read(path), runtime_of(entry), entry.is_model))
        if entry is ONNX and calibration is not None:
            quantised = folder / INT8_FILE
            write_int8(path, calibration, quantised)
            found.append(Written(INT8, quantised, read_onnx(quantised), runtime_of(entry)))
    return found


def runtime_of(entry: Format) -> str:
    """Return what runs a format here, with its version."""
    return f"{entry.runtime} {installed_version(entry.runtime)}"


def _files(path: Path) -> list[Path]:
    """Return what belongs to the model: of a folder its weights and config, whatever card lies beside them."""
    if path.is_file():
        return [path]
    return sorted(one for one in path.iterdir() if one.suffix in (".safetensors", ".json"))
