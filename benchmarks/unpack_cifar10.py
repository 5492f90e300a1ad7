"""CIFAR-10's official binary batches from packed images, for machines to which only small files can be carried."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TILES = 10  # images in a row and in a column of a sheet
FILES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def unpack_cifar10(folder: Path) -> None:
    """Write CIFAR-10's official binary batches from packed images and labels.

    The folder has ``train*.tiles`` (in parts, by name) and ``test*.tiles``: after ``TILE`` and the numbers of images,
    rows and columns, each block is a size and a WebP sheet of 10x10 images. ``train_labels.npy`` and
    ``test_labels.npy`` have the labels. The loader checks the batches by their MD5.
    """
    batches = folder / "cifar-10-batches-bin"
    if batches.is_dir() or not list(folder.glob("train*.tiles")):
        return
    images = np.concatenate(
        [_untiled(path) for kind in ("train", "test") for path in sorted(folder.glob(f"{kind}*.tiles"))]
    )
    labels = np.concatenate([np.load(folder / f"{kind}_labels.npy") for kind in ("train", "test")])
    rows = np.concatenate([labels.astype(np.uint8)[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
    batches.mkdir()
    for name, part in zip(FILES, np.split(rows, len(FILES)), strict=True):
        (batches / f"{name}.bin").write_bytes(part.tobytes())


def _untiled(path: Path) -> np.ndarray[Any, Any]:
    data = path.read_bytes()
    magic, count, height, width = struct.unpack_from("<4sIII", data)
    if magic != b"TILE":
        sys.exit(f"{path}: not a file of packed images; pass files that begin with TILE.")
    at, blocks = 16, list[np.ndarray[Any, Any]]()
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        sheet = np.asarray(Image.open(io.BytesIO(data[at + 4 : at + 4 + size])).convert("RGB"))
        tiles = sheet.reshape(TILES, height, TILES, width, 3).transpose(0, 2, 1, 3, 4)
        blocks.append(tiles.reshape(TILES * TILES, height, width, 3))
        at += 4 + size
    return np.concatenate(blocks)[:count]
