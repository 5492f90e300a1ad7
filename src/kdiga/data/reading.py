"""How encoded images become a set: in memory or on disk, with how many processes, with or without damaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdiga.arguments import check_fields
from kdiga.data.decoder_pool import available_workers
from kdiga.data.file_set import FileSet, Storage
from kdiga.data.image_set import ImageSet
from kdiga.decoding import Resize, header_of, not_square
from kdiga.errors import InputError, check_at_least

MEMORY_LIMIT = 2**30  # bytes of decoded images that "auto" loads into memory
FILE_LIMIT = 2**27  # bytes of files that "auto" decodes before training starts; that is some 10 seconds of a processor
SAMPLED = 200  # files whose sizes are read
NAMED = 5  # images that a note names


@dataclass(frozen=True)
class Reading:
    """Options of the loaders of image files.

    Args:
        image_size: Height and width in pixels; None takes square images of one size as they are.
        in_memory: True decodes all images at the start, False each image when it is needed; "auto" decodes them at
            the start where they take at most 1 GiB decoded and 128 MiB encoded.
        workers: Number of processes that decode; 0 decodes in the run's own; "auto" is one for each processor but
            one, at most 8.
        skip_corrupt: Whether to leave out images that cannot be read, which reads every file once at the start.
        resize: Way to ``image_size``: "crop" resizes the shorter side and cuts out the middle, "pad" resizes the longer
            side and adds black borders, "stretch" changes the proportions.

    Raises:
        InputError: for numbers out of range.
    """

    image_size: int | None = None
    in_memory: Literal["auto", True, False] = "auto"
    workers: Literal["auto"] | int = "auto"
    skip_corrupt: bool = False
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(1, image_size=self.image_size)
        if self.resize != "crop" and self.image_size is None:
            raise InputError(f"resize was {self.resize!r} without an image_size; give the size in pixels, as 224.")
        if self.workers != "auto" and self.workers < 0:
            raise InputError(f"workers was {self.workers!r}; it must be 'auto', or at least 0.")


def read(storage: Storage, labels: Tensor, classes: Sequence[str], reading: Reading) -> tuple[FileSet, list[str]]:
    """Return encoded images as a set on disk, in the order of the storage, and notes on what was left out.

    Raises:
        InputError: if the first image cannot be read, or none can.
    """
    workers = available_workers() if reading.workers == "auto" else reading.workers
    size = reading.image_size or 1
    files = FileSet(storage, torch.arange(len(labels)), labels, classes, size, True, workers, fit=reading.resize)
    notes = list[str]()
    if reading.skip_corrupt:
        files, corrupt = files.readable()
        if corrupt:
            named = "; ".join(corrupt[:NAMED]) + ("; ..." if len(corrupt) > NAMED else "")
            notes.append(f"{len(corrupt):,} of {len(labels):,} images cannot be read and were left out: {named}")
    first = files.items(slice(1))[0]
    width, height, sixteen_bits = header_of(first)
    if sixteen_bits:
        notes.append(f"16-bit images, such as {first.name!r}, are read with 8 bits: 65535 becomes 255")
    if reading.image_size is None:
        if width != height:
            raise not_square(first, width, height)
        files = replace(files, image_size=width, resize=False)
    return files, notes


def settle(files: FileSet, reading: Reading) -> ImageSet | FileSet:
    """Return the set in memory or on disk, as requested or by the rule for "auto"."""
    small = files.decoded_bytes <= MEMORY_LIMIT and encoded_bytes(files) <= FILE_LIMIT
    return files.load() if reading.in_memory is True or (reading.in_memory == "auto" and small) else files


def encoded_bytes(files: FileSet) -> float:
    """Return the size of the files on disk, estimated from some of them, evenly spread."""
    rows = files.rows[:: max(1, len(files) // SAMPLED)].tolist()
    return sum(map(files.storage.length, rows)) / len(rows) * len(files)
