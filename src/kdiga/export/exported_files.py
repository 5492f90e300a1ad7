"""A model's files in a folder: written, read back, and identified by a hash of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdiga.errors import InputError
from kdiga.export.formats import Format, Logits, available_formats, formats_by_name
from kdiga.export.onnx_file import INT8, INT8_FILE, ONNX, read_onnx, write_int8
from kdiga.models import Classifier
from kdiga.runs.provenance import installed_version

REFERENCE = "pytorch"  # name of the model itself, which files are compared with


@dataclass(frozen=True)
class ExportedFile:
    """A model as a file, or the model in PyTorch itself."""

    name: str  # name of the format; "onnx-int8" for the quantised file, "pytorch" for the model itself
    call: Logits  # function from images to logits, in as many threads as PyTorch used when the file was read
    digest: str  # SHA-256 of the bytes; for the model itself its fingerprint
    runtime: str  # package that runs it, with its version
    path: Path | None = None  # path of the file or folder; None for the model itself
    is_model: bool = False  # as in :class:`kdiga.export.Format`

    @property
    def size(self) -> int:
        """Bytes of the file, or of the files of a folder that the model needs; 0 for the model itself."""
        return 0 if self.path is None else sum(path.stat().st_size for path in _model_files(self.path))


def write_all(
    model: Classifier, formats: Sequence[Format], folder: Path, calibration: Tensor | None = None
) -> list[ExportedFile]:
    """Write a model, in eval mode on the CPU, in some formats into an existing folder, and read each file back.

    With calibration images, float (example, channel, height, width) in [0, 1] and from the training data, the ONNX file
    is also quantised.
    """
    found: list[ExportedFile] = []
    for entry in formats:
        path = folder / entry.file
        entry.write(model, path)
        found.append(
            ExportedFile(entry.name, entry.read(path), _digest(path), with_version(entry.runtime), path, entry.is_model)
        )
        if entry is ONNX and calibration is not None:
            quantised = folder / INT8_FILE
            write_int8(path, calibration, quantised)
            runtime = with_version(entry.runtime)
            found.append(ExportedFile(INT8, read_onnx(quantised), _digest(quantised), runtime, quantised))
    return found


def read_again(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> list[ExportedFile]:
    """Read the files of earlier calls, of their records in ``export.json``, that are unchanged and can be read here.

    Files that are the model itself are left out.
    """
    known = {one.name: (one, folder / one.file) for one in formats_by_name(available_formats()) if not one.is_model}
    known[INT8] = (ONNX, folder / INT8_FILE)
    found: list[ExportedFile] = []
    for name in [name for name in records if name in known]:
        entry, path = known[name]
        if path.exists() and (digest := _digest(path)) == records[name]["sha256"]:
            with suppress(ImportError, InputError):
                found.append(ExportedFile(name, entry.read(path), digest, with_version(entry.runtime), path))
    return found


def with_version(package: str) -> str:
    """Return the name of a package with its installed version."""
    return f"{package} {installed_version(package)}"


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files of a folder in order of their names."""
    digest = hashlib.sha256()
    for file in _model_files(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _model_files(path: Path) -> list[Path]:
    """Return a file itself, and of a folder the weights and config, without the model card."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".json"))
