"""What the training loop reads: an epoch's batches, repeatable from (seed, epoch) alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdiga.checks import check_images, check_labels
from kdiga.data.batches import FileBatch, FileFeed
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet, to_pixels
from kdiga.data.mixed_set import MixedFeed, MixedSet
from kdiga.data.order import batch_rows, batches_in, check_sizes
from kdiga.data.views import View
from kdiga.distributed.batch_shards import WHOLE, Share
from kdiga.errors import InputError
from kdiga.types import Batch

Images = ImageSet | FileSet | MixedSet
"""Sets of images: in memory, on disk, and with extra ones."""


class Feed(Protocol):
    """A source of batches that knows how many an epoch has."""

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Return the batches of one epoch, from batch ``start`` on; nothing random is drawn for the earlier ones.

        Whatever has to be read to get there has been read when this returns.
        """
        ...


@dataclass(frozen=True)
class ImageSetFeed:
    """Shuffles and augments an image set in memory, on the device that holds it.

    The last batch is dropped when it is short, so that every step has the same size.

    Args:
        data: the training images.
        batch_size: of all processes together; at most the number of examples.
        seed: decides order and augmentation, together with the epoch.
        augmentation: of each example.
        views: how many there are of an example, used in turn, epoch by epoch; None for a new one each
            epoch.
        share: of every batch, for this process.
    """

    data: ImageSet
    batch_size: int
    seed: int
    augmentation: View
    views: int | None = None
    share: Share = WHOLE

    def __post_init__(self) -> None:
        check_sizes(self.batch_size, self.views)
        self.share.size_of(min(self.batch_size, len(self.data)))

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return batches_in(len(self.data), self.batch_size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from ``start`` on, each example once; the epoch decides the view."""
        view = number if self.views is None else number % self.views
        for index in batch_rows(
            len(self.data),
            self.batch_size,
            seed=self.seed,
            epoch=number,
            start=start,
            share=self.share,
            device=self.data.device,
        ):
            yield batch_of(self.data, index, self.augmentation, seed=self.seed, view=view)


def batch_of(data: ImageSet | FileSet, index: Tensor, augmentation: View, *, seed: int, view: int) -> Batch:
    """Return the batch of some rows in one view.

    Args:
        data: the training images.
        index: int64 (batch,), rows of it, on its device.
        augmentation: of each example.
        seed: of the augmentation.
        view: of all of them.
    """
    if isinstance(data, FileSet):
        return FileBatch(data, index.cpu(), augmentation, seed, view).result()
    images = augmentation(data.images[index], index, seed=seed, view=view)
    return Batch(to_pixels(images), data.labels[index], index, view=view)


@dataclass(frozen=True)
class LoaderFeed:
    """A PyTorch data loader, or any sized iterable of (images, labels), each epoch read once through.

    Every process reads the whole batches and keeps its rows of them, so the loader has to give each process the same
    ones: PyTorch's does, whose order comes from the run's random stream.

    Args:
        loader: yields float images in [0, 1] and integer labels.
        device: where the batches go.
        share: of every batch, for this process.
    """

    loader: Iterable[tuple[Tensor, Tensor]]
    device: torch.device
    share: Share = WHOLE

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        if not isinstance(self.loader, Sized):
            raise InputError("the training data has no length; give a DataLoader, a list of batches or an ImageSet.")
        return len(self.loader)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Return one pass over the loader from batch ``start`` on; the first batch is checked.

        A loader cannot jump: the batches before ``start`` are read and dropped.
        """
        batches, seen = iter(self.loader), 0
        for images, _ in itertools.islice(batches, start):
            seen += len(images)
        return self._rest(batches, seen, number)

    def _rest(self, batches: Iterator[tuple[Tensor, Tensor]], seen: int, number: int) -> Iterator[Batch]:
        for place, (images, labels) in enumerate(batches):
            if place == 0:
                check_images(images)
                check_labels(labels, images)
            index = torch.arange(seen, seen + len(images), device=self.device)
            seen += len(images)
            own = self.share.rows(len(images))
            yield Batch(images[own].to(self.device), labels[own].long().to(self.device), index[own], view=number)


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
        train: where the batches come from.
        batch_size: of all processes together; a loader has its own.
        seed: of order and augmentation; a loader draws from the streams of the process.
        augmentation: of an image set's examples.
        device: where the batches go.
        views: of an image set's examples; None for a new one each epoch.
        share: of every batch, for this process.
    """
    if isinstance(train, MixedSet):
        if views is not None:
            raise InputError("extra training images are in no teacher cache; leave out one or the other.")
        return MixedFeed(train.to(device), batch_size, seed, augmentation, share)
    if isinstance(train, FileSet):
        return FileFeed(train.to(device), batch_size, seed, augmentation, views, share)
    if isinstance(train, ImageSet):
        return ImageSetFeed(train.to(device), batch_size, seed, augmentation, views, share)
    return LoaderFeed(train, device, share)
