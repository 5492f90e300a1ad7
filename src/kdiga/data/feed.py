"""Feeds of the training loop: the batches of an epoch, repeatable from (seed, epoch) alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdiga.checks import check_images, check_targets, images_and_labels
from kdiga.data.batches import (
    PendingBatch,
    PendingMixedBatch,
    ShuffledRows,
    batch_rows,
    batches_in,
    shuffled,
)
from kdiga.data.decoder_pool import ahead
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet
from kdiga.data.mixed_set import MixedSet
from kdiga.data.transfer import to_device
from kdiga.data.views import View, check_view
from kdiga.distributed.batch_shards import WHOLE, Share
from kdiga.errors import InputError, check_at_least
from kdiga.types import Batch

ORIGINAL, EXTRA, ORDER = 101, 102, 103  # random streams of a seed

Images = ImageSet | FileSet | MixedSet
"""Sets of images: in memory, on disk, and with extra images."""


class Feed(Protocol):
    """A source of batches with a known number of batches per epoch."""

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Return the batches of one epoch, from batch ``start`` on; no random number is drawn for the earlier ones.

        A source that has to read the earlier batches has read them when this returns.
        """
        ...


@dataclass(frozen=True)
class ImageSetFeed:
    """Shuffles and augments a set of images, in memory or on disk.

    A batch depends on (seed, epoch, place) alone, not on the number of decoding processes. Images on disk give the
    same batches as in memory, unless the augmentation cuts crops from the files. A short last batch is dropped, so
    that every step has the same size.

    Args:
        data: The training images.
        batch_size: Batch size of all processes together; at most the number of examples is used.
        seed: Seed of order and augmentation, together with the epoch.
        augmentation: Augmentation of each example.
        views: Number of views of an example, used in turn, one an epoch; None for a new view each epoch.
        share: Rows of every batch for this process.

    Raises:
        InputError: if the augmentation cannot take the images.
    """

    data: ImageSet | FileSet
    batch_size: int
    seed: int
    augmentation: View
    views: int | None = None
    share: Share = WHOLE

    def __post_init__(self) -> None:
        check_at_least(1, batch_size=self.batch_size, views=self.views)
        check_view(self.augmentation, self.data.image_shape)
        self.share.size_of(min(self.batch_size, len(self.data)))

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return batches_in(len(self.data), self.batch_size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from ``start`` on, each example once; the epoch decides the view."""
        view = number if self.views is None else number % self.views
        rows = batch_rows(len(self.data), self.batch_size, seed=self.seed, epoch=number, start=start, share=self.share)
        return ahead(PendingBatch(self.data, index, self.augmentation, self.seed, view) for index in rows)


def batch_of(data: ImageSet | FileSet, index: Tensor, augmentation: View, *, seed: int, view: int) -> Batch:
    """Return the batch of some rows in one view.

    Args:
        data: The training images.
        index: Rows of ``data``, int64 (batch,), on the CPU.
        augmentation: Augmentation of each example.
        seed: Seed of the augmentation.
        view: Number of the view, for all examples.
    """
    return PendingBatch(data, index, augmentation, seed, view).result()


@dataclass(frozen=True)
class MixedFeed:
    """Batches of original and extra images in a fixed ratio.

    An epoch has as many batches as without the extra images (as in Gowal et al. 2021 and Wang et al. 2023): with a
    share of 0.7, an original image is used three times in ten epochs. Originals are shuffled again after each has
    been used once, and so are the extra images. Original example i has index i; extra example j has index (number of
    originals) + j. A batch depends on (seed, epoch, place) alone.

    Args:
        data: The training images with the extra ones.
        batch_size: Batch size of all processes together.
        seed: Seed of order and augmentation, together with the epoch.
        augmentation: Augmentation of each example.
        share: Rows of every batch for this process.

    Raises:
        InputError: if a batch would hold no original or no extra image, or the augmentation cannot take the images.
    """

    data: MixedSet
    batch_size: int
    seed: int
    augmentation: View
    share: Share

    def __post_init__(self) -> None:
        check_at_least(1, batch_size=self.batch_size)
        check_view(self.augmentation, self.data.image_shape)
        self.share.size_of(self._size)
        if not 0 < self.extras < self._size:
            raise InputError(
                f"a share of {self.data.share} extra images in a batch of {self._size} is {self.extras}; a batch must "
                "hold at least one extra and one original image."
            )

    @property
    def _size(self) -> int:
        return min(self.batch_size, len(self.data))

    @property
    def extras(self) -> int:
        """Number of extra images in each batch."""
        return round(self.data.share * self._size)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return batches_in(len(self.data), self.batch_size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from ``start`` on; the epoch decides the view."""
        return ahead(self._pending(number, start))

    def _pending(self, number: int, start: int) -> Iterator[PendingMixedBatch]:
        size, count = self._size, len(self.data)
        originals = ShuffledRows(count, self.seed, ORIGINAL)
        extras = ShuffledRows(len(self.data.extra), self.seed, EXTRA)
        for step in range(number * len(self) + start, (number + 1) * len(self)):
            rows = originals.rows(step * (size - self.extras), size - self.extras)
            more = extras.rows(step * self.extras, self.extras) + count
            # Shuffled, so that every process of a run gets both kinds.
            index = torch.cat([rows, more])[shuffled(size, self.seed, ORDER, step)]
            yield PendingMixedBatch(self.data, index[self.share.rows(size)], self.augmentation, self.seed, number)


@dataclass(frozen=True)
class LoaderFeed:
    """A PyTorch data loader, or any sized iterable of (images, labels), read once per epoch.

    Every process reads the whole batches and uses its rows of them, so the loader must give each process the same
    batches. PyTorch's does: its order comes from the run's random stream.

    Args:
        loader: Iterable of float images in [0, 1] and integer labels.
        device: Device of the batches.
        share: Rows of every batch for this process.
    """

    loader: Iterable[tuple[Tensor, Tensor]]
    device: torch.device
    share: Share = WHOLE

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        try:
            return len(self.loader)  # pyright: ignore[reportArgumentType]
        except TypeError:  # also of a DataLoader over an IterableDataset
            raise InputError(
                "the training data has no length, and the learning rate's schedule needs one: give the dataset a "
                "__len__, or a list of batches; or use kdiga.Distiller with total_steps in a loop of your own."
            ) from None

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Return one pass over the loader from batch ``start`` on; the first batch is checked.

        A loader cannot skip batches: those before ``start`` are read and dropped.
        """
        batches, seen = iter(self.loader), 0
        for batch in itertools.islice(batches, start):
            seen += len(images_and_labels(batch)[0])
        return self._rest(batches, seen, number)

    def _rest(self, batches: Iterator[tuple[Tensor, Tensor]], seen: int, number: int) -> Iterator[Batch]:
        for place, batch in enumerate(batches):
            images, labels = images_and_labels(batch)
            check_images(images, values=place == 0)
            labels = check_targets(labels, images)
            index = torch.arange(seen, seen + len(images))
            seen += len(images)
            own = self.share.rows(len(images))
            images, labels = (to_device(one[own], self.device) for one in (images, labels))
            yield Batch(images, labels, index[own], view=number)


def feed_of(
    train: Images | Iterable[tuple[Tensor, Tensor]],
    *,
    batch_size: int,
    seed: int,
    augmentation: View,
    device: torch.device,
    views: int | None = None,
    share: Share = WHOLE,
) -> Feed:
    """Return the feed of an image set, or of a loader that augments by itself.

    Args:
        train: Source of the batches.
        batch_size: Batch size of all processes together; a loader has its own.
        seed: Seed of order and augmentation; a loader draws from the random streams of the process.
        augmentation: Augmentation of an image set's examples.
        device: Device of the batches.
        views: Number of views of an image set's examples; None for a new view each epoch.
        share: Rows of every batch for this process.
    """
    if isinstance(train, MixedSet):
        if views is not None:
            raise InputError("extra training images are in no teacher cache; leave out one or the other.")
        return MixedFeed(train.to(device), batch_size, seed, augmentation, share)
    if isinstance(train, ImageSet | FileSet):
        return ImageSetFeed(train.to(device), batch_size, seed, augmentation, views, share)
    return LoaderFeed(train, device, share)
