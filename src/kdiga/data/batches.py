"""Batches of images that are decoded ahead of the step that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from kdiga.data.file_set import CPU, Begun, FileSet, ahead
from kdiga.data.image_set import ImageSet, to_pixels
from kdiga.data.order import batch_rows, batches_in, check_sizes
from kdiga.data.views import ResizedCrop, View
from kdiga.distributed.batch_shards import Share
from kdiga.types import Batch


@dataclass(frozen=True)
class FileFeed:
    """Shuffles and augments images on disk.

    A batch is decided by (seed, epoch, place) alone, whatever the number of workers, and is that of an
    :class:`ImageSetFeed` wherever the augmentation works on decoded images. The last batch is dropped when it is short.

    Args:
        data: the training images.
        batch_size: of all processes together; at most the number of examples.
        seed: decides order and augmentation, together with the epoch.
        augmentation: of each example.
        views: how many there are of an example, used in turn, epoch by epoch; None for a new one each epoch.
        share: of every batch, for this process.
    """

    data: FileSet
    batch_size: int
    seed: int
    augmentation: View
    views: int | None
    share: Share

    def __post_init__(self) -> None:
        check_sizes(self.batch_size, self.views)
        self.share.size_of(min(self.batch_size, len(self.data)))

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return batches_in(len(self.data), self.batch_size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from ``start`` on, each example once; the epoch decides the view."""
        view = number if self.views is None else number % self.views
        parts = batch_rows(
            len(self.data), self.batch_size, seed=self.seed, epoch=number, start=start, share=self.share, device=CPU
        )
        return ahead(FileBatch(self.data, index, self.augmentation, self.seed, view) for index in parts)


class FileBatch:
    """A batch that is being decoded.

    Args:
        data: where from.
        index: int64 (batch,), rows of it, on the CPU.
        augmentation: of each example.
        seed: of the augmentation.
        view: of all of them.
    """

    def __init__(self, data: FileSet, index: Tensor, augmentation: View, seed: int, view: int) -> None:
        self.data, self.index, self.view = data, index, view
        self.images = begin_view(data, index, index, augmentation, seed=seed, view=view)

    def result(self) -> Batch:
        """Wait for it."""
        device = self.data.device
        labels = self.data.labels[self.index].to(device)
        return Batch(to_pixels(self.images.result()), labels, self.index.to(device), view=self.view)

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        self.images.cancel()


class BegunView:
    """A view of images on disk that is being made; see :func:`begin_view`."""

    def __init__(self, data: FileSet, rows: Tensor, index: Tensor, augmentation: View, seed: int, view: int) -> None:
        self.data, self.index, self.augmentation, self.seed, self.view = data, index, augmentation, seed, view
        cut = isinstance(augmentation, ResizedCrop)
        self.pending = data.begin(rows, augmentation.crops(index, seed=seed, view=view) if cut else None)
        self.cut = cut

    def result(self) -> Tensor:
        """Return images as bytes, on the set's device."""
        images = self.pending.result().to(self.data.device)
        if self.cut:
            return images
        return self.augmentation(images, self.index.to(images.device), seed=self.seed, view=self.view)

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        self.pending.cancel()


class HeldView:
    """A view of images in memory, made when it is asked for; see :func:`begin_view`."""

    def __init__(self, data: ImageSet, rows: Tensor, index: Tensor, augmentation: View, seed: int, view: int) -> None:
        self.data, self.rows, self.index = data, rows, index
        self.augmentation, self.seed, self.view = augmentation, seed, view

    def result(self) -> Tensor:
        """Return images as they are stored, on the set's device."""
        rows, index = self.rows.to(self.data.device), self.index.to(self.data.device)
        return self.augmentation(self.data.images[rows], index, seed=self.seed, view=self.view)

    def cancel(self) -> None:
        """There is nothing to do."""


def begin_view(
    data: ImageSet | FileSet, rows: Tensor, index: Tensor, augmentation: View, *, seed: int, view: int
) -> Begun[Tensor]:
    """Begin to make one view of some images.

    Args:
        data: where from.
        rows: int64 (batch,), of it, on the CPU.
        index: int64 (batch,), what the augmentation knows each example by.
        augmentation: of each example.
        seed: of the augmentation.
        view: of all of them.
    """
    kind = BegunView if isinstance(data, FileSet) else HeldView
    return kind(data, rows, index, augmentation, seed, view)  # pyright: ignore[reportArgumentType]
