"""Whether a file of weights holds the bytes that were written: a flipped bit is another model, and looks like one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kdiga.errors import InputError

PACKED = 4  # times a file's size that its parts may take unpacked; torch.save packs nothing


def sum_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of contiguous CPU tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def sums_problem(tensors: Mapping[str, Tensor], written: object) -> str | None:
    """Return what is wrong with tensors whose sum was written beside them; None for nothing, or for no sum."""
    if written is None or written == sum_of(tensors):
        return None
    return "its tensors do not match the checksum beside them"


def check_sums(path: Path) -> None:
    """Check the checksums in a zip file, which torch.save writes and torch.load leaves unread.

    Args:
        path: of a file; one that is no zip file has none.

    Raises:
        InputError: for parts that are damaged, or packed to far less than they hold.
        zipfile.BadZipFile: for a file that begins as a zip file and is none.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(path) as parts:
        if sum(part.file_size for part in parts.infolist()) > PACKED * path.stat().st_size:
            raise InputError(f"{str(path)!r} unpacks to far more than its size; save it again with torch.save.")
        damaged = parts.testzip()
    if damaged is not None:
        raise InputError(
            f"{str(path)!r} is damaged: {damaged} does not match its checksum; copy it again, or save it again with "
            "torch.save."
        )
