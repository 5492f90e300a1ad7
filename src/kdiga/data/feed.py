"""What the training loop reads: an epoch's batches, repeatable from (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdiga.checks import check_images, check_labels
from kdiga.data.images import ImageSet, to_pixels
from kdiga.data.views import Augmentation
from kdiga.errors import InputError
from kdiga.modes import mix_seed
from kdiga.types import Batch


class Feed(Protocol):
    """A source of batches that knows how many an epoch has."""

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        ...


@dataclass(frozen=True)
class ImageSetFeed:
    """Shuffles and augments an image set in memory, on the device that holds it.

    The last batch is dropped when it is short, so that every step has the same size.

    Args:
        data: the training images.
        batch_size: at most the number of examples.
        seed: decides order and augmentation, together with the epoch.
        augmentation: of each example.
        views: how many there are of an example, used in turn, epoch by epoch; None for a new one each
            epoch.
    """

    data: ImageSet
    batch_size: int
    seed: int
    augmentation: Augmentation
    views: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} was {value!r}; it must be at least 1.")

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return max(1, len(self.data) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, each example once; the epoch decides the view."""
        view = number if self.views is None else number % self.views
        generator = torch.Generator().manual_seed(mix_seed(self.seed, number))
        order = torch.randperm(len(self.data), generator=generator).to(self.data.images.device)
        for start in range(len(self)):
            index = order[start * self.batch_size : (start + 1) * self.batch_size]
            yield batch_of(self.data, index, self.augmentation, seed=self.seed, view=view)


def batch_of(data: ImageSet, index: Tensor, augmentation: Augmentation, *, seed: int, view: int) -> Batch:
    """Return the batch of some rows in one view.

    Args:
        data: the training images.
        index: int64 (batch,), rows of it, on its device.
        augmentation: of each example.
        seed: of the augmentation.
        view: of all of them.
    """
    images = augmentation(data.images[index], index, seed=seed, view=view)
    return Batch(to_pixels(images), data.labels[index], index, view=view)


@dataclass(frozen=True)
class LoaderFeed:
    """A PyTorch data loader, or any sized iterable of (images, labels), each epoch read once through.

    Args:
        loader: yields float images in [0, 1] and integer labels.
        device: where the batches go.
    """

    loader: Iterable[tuple[Tensor, Tensor]]
    device: torch.device

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        if not isinstance(self.loader, Sized):
            raise InputError("the training data has no length; give a DataLoader, a list of batches or an ImageSet.")
        return len(self.loader)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield one pass over the loader; its first batch is checked."""
        seen = 0
        for images, labels in self.loader:
            if seen == 0:
                check_images(images)
                check_labels(labels, images)
            index = torch.arange(seen, seen + len(images), device=self.device)
            seen += len(images)
            yield Batch(images.to(self.device), labels.long().to(self.device), index, view=number)


def feed_of(
    train: ImageSet | Iterable[tuple[Tensor, Tensor]],
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    device: torch.device,
    views: int | None = None,
) -> Feed:
    """Return the feed of an image set, or of a loader that augments by itself."""
    if isinstance(train, ImageSet):
        return ImageSetFeed(train.to(device), batch_size, seed, augmentation, views)
    return LoaderFeed(train, device)
