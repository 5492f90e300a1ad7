"""How a batch is made: its rows, decided by (seed, epoch, place) alone, and its images, decoded ahead of their step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdiga.checks import IGNORED
from kdiga.data.decoder_pool import Pending
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet, to_pixels
from kdiga.data.mixed_set import MixedSet
from kdiga.data.transfer import to_device
from kdiga.data.views import ResizedCrop, View
from kdiga.distributed.batch_shards import Share
from kdiga.model_state import mix_seed
from kdiga.types import Batch


def batches_in(examples: int, batch_size: int) -> int:
    """Return the batches of an epoch: a short last one is dropped, so that every step has the same size."""
    return max(1, examples // batch_size)


def batch_rows(examples: int, batch_size: int, *, seed: int, epoch: int, start: int, share: Share) -> Iterator[Tensor]:
    """Yield a process's rows of each batch of one epoch, from batch ``start`` on; an epoch has each row once."""
    order = torch.randperm(examples, generator=_generator(seed, epoch))
    for place in range(start, batches_in(examples, batch_size)):
        index = order[place * batch_size : (place + 1) * batch_size]
        yield index[share.rows(len(index))]


class ShuffledRows:
    """The rows 0 .. count - 1 in a random order, then in another one, without end, with access to any range."""

    def __init__(self, count: int, seed: int, stream: int) -> None:
        self.count, self.seed, self.stream = count, seed, stream
        self._last: tuple[int, Tensor] | None = None

    def rows(self, start: int, number: int) -> Tensor:
        """Return the rows at places start .. start + number - 1."""
        parts = list[Tensor]()
        while number > 0:
            turn, place = divmod(start, self.count)
            part = self._turn(turn)[place : place + number]
            parts.append(part)
            start, number = start + len(part), number - len(part)
        return torch.cat(parts)

    def _turn(self, turn: int) -> Tensor:
        if self._last is None or self._last[0] != turn:
            self._last = turn, shuffled(self.count, self.seed, self.stream, turn)
        return self._last[1]


def shuffled(count: int, *seeds: int) -> Tensor:
    """Return the rows 0 .. count - 1 in the random order of some seeds."""
    return torch.randperm(count, generator=_generator(*seeds))


class PendingView:
    """One view of some images: decoded from now on if they are on disk, made on request if they are in memory.

    ``rows`` are rows of the data; ``index`` identifies the examples for the augmentation. Both are on the CPU.
    """

    def __init__(
        self, data: ImageSet | FileSet, rows: Tensor, index: Tensor, augmentation: View, seed: int, view: int
    ) -> None:
        self.data, self.rows, self.index = data, rows, index
        self.augmentation, self.seed, self.view = augmentation, seed, view
        self.decoding: Pending[Tensor] | None = None
        self.cropped = isinstance(data, FileSet) and isinstance(augmentation, ResizedCrop)
        if isinstance(data, FileSet):
            crops = augmentation.crops(index, seed=seed, view=view) if isinstance(augmentation, ResizedCrop) else None
            self.decoding = data.begin(rows, crops)

    def result(self) -> Tensor:
        """Return the view on the set's device, in the type in which the images are stored."""
        device = self.data.device
        if self.decoding is not None:
            images = to_device(self.decoding.result(), device)
        else:
            assert isinstance(self.data, ImageSet)
            images = self.data.images[to_device(self.rows, device)]
        if self.cropped:
            return images
        return self.augmentation(images, self.index, seed=self.seed, view=self.view)

    def cancel(self) -> None:
        """Cancel the decoding that has not started."""
        if self.decoding is not None:
            self.decoding.cancel()


class PendingBatch:
    """A batch of rows of one set; its images are being decoded, or are made on request."""

    def __init__(self, data: ImageSet | FileSet, index: Tensor, augmentation: View, seed: int, view: int) -> None:
        self.data, self.index, self.view = data, index, view
        self.images = PendingView(data, index, index, augmentation, seed, view)

    def result(self) -> Batch:
        """Return the batch, on the set's device, when its images are ready."""
        images = to_pixels(self.images.result())
        return Batch(images, _labels(self.data, self.index), self.index, view=self.view)

    def cancel(self) -> None:
        """Cancel the decoding that has not started."""
        self.images.cancel()


class PendingMixedBatch:
    """A batch of original and extra images; an extra row has the index ``len(data)`` plus its row."""

    def __init__(self, data: MixedSet, index: Tensor, augmentation: View, seed: int, view: int) -> None:
        self.data, self.index, self.view = data, index, view
        is_extra = index >= len(data)
        self.parts = [
            (kind.nonzero().flatten(), PendingView(part, index[kind] - first, index[kind], augmentation, seed, view))
            for kind, part, first in ((~is_extra, data.original, 0), (is_extra, data.extra, len(data)))
            if kind.any()
        ]

    def result(self) -> Batch:
        """Return the batch, on the set's device, when its images are ready."""
        made, count = [to_pixels(part.result()) for _, part in self.parts], len(self.index)
        images, labels = made[0].new_empty(count, *made[0].shape[1:]), made[0].new_empty(count, dtype=torch.int64)
        for (places, part), pixels in zip(self.parts, made, strict=True):
            there = to_device(places, self.data.device)
            known = part.data is self.data.original or not self.data.unlabelled
            images[there], labels[there] = pixels, _labels(part.data, part.rows) if known else IGNORED
        return Batch(images, labels, self.index, view=self.view)

    def cancel(self) -> None:
        """Cancel the decoding that has not started."""
        for _, part in self.parts:
            part.cancel()


def _labels(data: ImageSet | FileSet, rows: Tensor) -> Tensor:
    """Return the labels of some rows on the set's device; those of images on disk are on the CPU."""
    return to_device(data.labels[to_device(rows, data.labels.device)], data.device)


def _generator(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix_seed(*seeds))
