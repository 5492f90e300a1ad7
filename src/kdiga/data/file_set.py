"""A labelled set of encoded images that are decoded on request, so it may be larger than memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdiga.data.decoder_pool import AHEAD, Job, ahead
from kdiga.data.image_set import ImageSet, checked_labels, described, to_pixels
from kdiga.data.transfer import to_device
from kdiga.decoding import Crops, DecodeItem, Resize, decode, problems
from kdiga.errors import InputError
from kdiga.statistics import percent

CPU = torch.device("cpu")
MOMENTS_EXAMPLES = 500
PART = 64  # images that a process decodes in one call, at most


class Storage(Protocol):
    """Encoded images by number, outside memory: files, members of archives, rows of a table."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def item(self, row: int) -> DecodeItem:
        """Return the location of an image and its name in messages."""
        ...

    def key(self, row: int) -> str:
        """Return the name of an image within the set; it stays the same when the set moves to another folder."""
        ...

    def length(self, row: int) -> int:
        """Return the encoded size of an image in bytes; 0 for a missing file, which decoding names."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class FileSet:
    """Colour images on disk.

    It is used like an :class:`ImageSet`, and :meth:`load` makes it one.

    Args:
        storage: Encoded images.
        rows: Numbers of this set's images in the storage, int64 (example,).
        labels: Labels, integers (example,), in [0, num_classes); stored as int64.
        classes: Names of the classes.
        image_size: Height and width in pixels after decoding.
        resize: Whether to resize and crop to that size; otherwise the images must have it.
        workers: Number of processes that decode; 0 decodes in this one. The pixels are the same.
        device: Device of the batches.
        fit: Way to resize images of another shape; see :class:`kdiga.data.Reading`.

    Raises:
        InputError: for no example, labels of another type or shape, or labels beyond the classes.
    """

    storage: Storage
    rows: Tensor
    labels: Tensor
    classes: Sequence[str]
    image_size: int
    resize: bool = True
    workers: int = 0
    device: torch.device = CPU
    fit: Resize = "crop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", checked_labels(self.rows, self.labels, self.classes))
        if self.workers < 0:
            raise InputError(f"workers was {self.workers!r}; it must be at least 0 (no further process).")

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Return the number of images, their shape and classes in one line."""
        return described(self, self.image_shape, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Number of channels: 3, since grey images are read as colour."""
        return 3

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def decoded_bytes(self) -> int:
        """Size of the decoded images in memory, in bytes."""
        return len(self) * self.in_channels * self.image_size**2

    def to(self, device: torch.device) -> FileSet:
        """Return the set with its batches on a device."""
        return replace(self, device=device)

    def take(self, rows: Tensor | slice) -> FileSet:
        """Return the examples of these rows."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])

    def split_by_name(self, share: float) -> tuple[FileSet, FileSet]:
        """Cut the set in two by a hash of each image's name, so that further images never move one to the other part.

        Args:
            share: Probability of the second part.

        Raises:
            InputError: If a part has no image, which happens in small sets.
        """
        digests = [hashlib.sha256(self.storage.key(row).encode()).digest() for row in self.rows.tolist()]
        second = torch.tensor([int.from_bytes(digest[:7]) < share * 2**56 for digest in digests])
        if bool(second.all()) or not bool(second.any()):
            raise InputError(
                f"{len(self)} images are too few to choose a test part by their names, {percent(share, 0)} of them; "
                "give more images, or put train and test images in two folders."
            )
        return self.take((~second).nonzero()[:, 0]), self.take(second.nonzero()[:, 0])

    def items(self, rows: Tensor | slice = slice(None)) -> list[DecodeItem]:
        """Return the locations of the images of these rows."""
        return [self.storage.item(row) for row in self.rows[rows].tolist()]

    def begin(self, rows: Tensor, crops: Crops | None = None) -> PendingImages:
        """Begin to decode these rows, in the workers if there are any.

        Args:
            rows: Rows, int64, on the CPU.
            crops: Random crop of each image; None takes the middle.
        """
        return PendingImages(self, rows, crops)

    def batches(self, batch_size: int = 250, *, examples: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float in [0, 1], and labels in stored order, without augmentation.

        Args:
            batch_size: Size of every batch but the last.
            examples: Number of examples, from the first; None for all.
        """
        count = len(self) if examples is None else min(examples, len(self))
        parts = [torch.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        for rows, pixels in zip(parts, ahead(map(self.begin, parts)), strict=True):
            yield to_pixels(to_device(pixels, self.device)), to_device(self.labels[rows], self.device)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel, of pixels in [0, 1], from the first 500 images."""
        return self.take(slice(MOMENTS_EXAMPLES)).load().moments()

    def load(self) -> ImageSet:
        """Return the set in memory, on its device.

        Raises:
            InputError: if it takes more than half of the machine's memory, or an image cannot be read.
        """
        memory = _memory()
        if memory is not None and self.decoded_bytes > memory / 2:
            raise InputError(
                f"{len(self):,} images of {self.image_size} pixels take {self.decoded_bytes / 1e9:.1f} GB and the "
                f"machine has {memory / 1e9:.1f}; use fewer of them (--examples), smaller ones (data.image_size), or "
                "leave them on disk (data.in_memory: false)."
            )
        pixels = torch.empty(len(self), *self.image_shape, dtype=torch.uint8)
        parts = torch.arange(len(self)).split(PART * max(1, self.workers))
        for rows, part in zip(parts, ahead(map(self.begin, parts)), strict=True):
            pixels[rows[0] : rows[-1] + 1] = part
        return ImageSet(pixels, self.labels, self.classes).to(self.device)

    def readable(self) -> tuple[FileSet, list[str]]:
        """Return the set without the images that cannot be read, and a line on each of those.

        Every image is read once from beginning to end.
        """
        parts = torch.arange(len(self)).split(PART)
        jobs = (Job(problems, self.items(rows), workers=self.workers) for rows in parts)
        found = [one for part in ahead(jobs, AHEAD * max(1, self.workers)) for one in part]
        sound = torch.tensor([row for row, problem in enumerate(found) if problem is None], dtype=torch.int64)
        bad = [row for row, problem in enumerate(found) if problem is not None]
        return self.take(sound), [f"{self.storage.item(int(self.rows[row])).name} ({found[row]})" for row in bad]


class PendingImages:
    """Images of a set that are being decoded."""

    def __init__(self, data: FileSet, rows: Tensor, crops: Crops | None) -> None:
        self.data, self.rows = data, rows
        size = data.image_size if data.resize or crops is not None else None
        count = len(rows)
        # As many parts as there are workers, so that the first batch does not wait for one of them.
        step = min(PART, max(1, -(-count // data.workers))) if data.workers else max(1, count)
        self.jobs = [
            Job(
                decode,
                data.items(rows[start : start + step]),
                size,
                None if crops is None else crops.rows(start, start + step),
                data.fit,
                workers=data.workers,
            )
            for start in range(0, count, step)
        ]

    def result(self) -> Tensor:
        """Return the images, uint8 (image, 3, height, width), with the layout channels last."""
        parts, seen = list[np.ndarray](), 0
        for job in self.jobs:
            part = job.result()
            if part.shape[1] != self.data.image_size:
                name = self.data.items(self.rows[seen : seen + 1])[0].name
                raise InputError(
                    f"{name!r} is {part.shape[2]}x{part.shape[1]} and the first image {self.data.image_size}x"
                    f"{self.data.image_size}; give data.image_size to resize and crop them."
                )
            parts.append(part)
            seen += len(part)
        return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)

    def cancel(self) -> None:
        """Cancel the decoding that has not started."""
        for job in self.jobs:
            job.cancel()


def _memory() -> int | None:
    """Return the machine's memory in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def first_images(data: ImageSet | FileSet, examples: int | None) -> ImageSet:
    """Return the first images of a set in memory, where attacks use each many times; None for all."""
    first = data if examples is None else data.take(slice(examples))
    return first.load() if isinstance(first, FileSet) else first
