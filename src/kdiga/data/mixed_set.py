"""Training images with more of them, real or generated, in every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdiga.data.batches import begin_view
from kdiga.data.file_set import Begun, FileSet, ahead
from kdiga.data.image_set import ImageSet, to_pixels
from kdiga.data.order import batches_in, check_sizes
from kdiga.data.views import View
from kdiga.distributed.batch_shards import Share
from kdiga.errors import InputError
from kdiga.model_state import mix_seed
from kdiga.types import Batch

ORIGINAL, EXTRA, ORDER = 101, 102, 103  # random streams of a seed


@dataclass(frozen=True, eq=False)
class MixedSet:
    """A set of training images, and extra ones that only batches contain.

    Its length, labels, split and moments are those of the original images: what is held out for validation never
    contains an extra one.

    Args:
        original: the training images.
        extra: of the same size and channels; their labels are the original's classes.
        share: of each batch that is extra, in (0, 1).

    Raises:
        InputError: for another share, or images that do not go together.
    """

    original: ImageSet | FileSet
    extra: ImageSet | FileSet
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"the share of extra images was {self.share!r}; it must be above 0 and below 1, as 0.7.")
        if self.original.image_shape != self.extra.image_shape:
            raise InputError(
                f"the extra images are {_shape(self.extra)} and the training images {_shape(self.original)}; they "
                "must agree."
            )
        if int(self.extra.labels.max()) >= self.original.num_classes:
            raise InputError(
                f"an extra image has label {int(self.extra.labels.max())} and the training images have "
                f"{self.original.num_classes} classes, from 0; the extra ones must be of these classes."
            )

    def __len__(self) -> int:
        """Return the number of original examples."""
        return len(self.original)

    @property
    def labels(self) -> Tensor:
        """Of the original examples."""
        return self.original.labels

    @property
    def classes(self) -> Sequence[str]:
        """The name of each class."""
        return self.original.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.original.num_classes

    @property
    def in_channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.original.in_channels

    @property
    def image_size(self) -> int:
        """Height, and width."""
        return self.original.image_size

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.original.image_shape

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return self.original.device

    def to(self, device: torch.device) -> MixedSet:
        """Return the set with its batches on a device."""
        return replace(self, original=self.original.to(device), extra=self.extra.to(device))

    def take(self, rows: Tensor | slice) -> MixedSet:
        """Return these rows of the original examples, with all the extra ones."""
        return replace(self, original=self.original.take(rows))

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel of the original images."""
        return self.original.moments()


@dataclass(frozen=True)
class MixedFeed:
    """Batches of original and extra images in a fixed ratio.

    An epoch has as many batches as it would have without the extra images (as in Gowal et al. 2021 and Wang et al.
    2023), so that with a share of 0.7 an original image comes up three times in ten epochs. Originals are shuffled
    anew whenever each has been used once, and so are the extra ones. Original example i has index i; extra example j
    has index (number of originals) + j. A batch is decided by (seed, epoch, place) alone.

    Args:
        data: the training images with the extra ones.
        batch_size: of all processes together.
        seed: decides order and augmentation, together with the epoch.
        augmentation: of each example.
        share: of every batch, for this process.

    Raises:
        InputError: if a batch would hold no original or no extra image.
    """

    data: MixedSet
    batch_size: int
    seed: int
    augmentation: View
    share: Share

    def __post_init__(self) -> None:
        check_sizes(self.batch_size, None)
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
        """Extra images in each batch."""
        return round(self.data.share * self._size)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return batches_in(len(self.data), self.batch_size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from ``start`` on; the epoch decides the view."""
        size, count = self._size, len(self.data)
        originals = _Shuffled(count, self.seed, ORIGINAL)
        extras = _Shuffled(len(self.data.extra), self.seed, EXTRA)

        def begun() -> Iterator[Begun[Batch]]:
            for step in range(number * len(self) + start, (number + 1) * len(self)):
                own = originals.rows(step * (size - self.extras), size - self.extras)
                more = extras.rows(step * self.extras, self.extras) + count
                # Mixed, so that every process of a run has both kinds.
                order = torch.randperm(size, generator=_generator(self.seed, ORDER, step))
                index = torch.cat([own, more])[order]
                yield MixedBatch(self.data, index[self.share.rows(size)], self.augmentation, self.seed, number)

        return ahead(begun())


class MixedBatch:
    """A batch of original and extra images that is being made.

    Args:
        data: where from.
        index: int64 (batch,), on the CPU; from ``len(data)`` on they are extra.
        augmentation: of each example.
        seed: of the augmentation.
        view: of all of them.
    """

    def __init__(self, data: MixedSet, index: Tensor, augmentation: View, seed: int, view: int) -> None:
        self.data, self.index, self.view = data, index, view
        is_extra = index >= len(data)
        self.parts = [
            (kind.nonzero().flatten(), part, index[kind] - first)
            for kind, part, first in ((~is_extra, data.original, 0), (is_extra, data.extra, len(data)))
            if kind.any()
        ]
        self.images = [
            begin_view(part, rows, index[places], augmentation, seed=seed, view=view)
            for places, part, rows in self.parts
        ]

    def result(self) -> Batch:
        """Wait for it."""
        device, count = self.data.device, len(self.index)
        images, labels = torch.empty(0, device=device), torch.empty(count, dtype=torch.int64, device=device)
        for (places, part, rows), view in zip(self.parts, self.images, strict=True):
            made = to_pixels(view.result())
            if not len(images):
                images = made.new_empty(count, *made.shape[1:])
            images[places.to(device)] = made
            labels[places.to(device)] = part.labels[rows.to(part.labels.device)].to(device)
        return Batch(images, labels, self.index.to(device), view=self.view)

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        for view in self.images:
            view.cancel()


class _Shuffled:
    """The rows 0 .. count - 1 shuffled, then shuffled again, without end; any stretch of it can be had."""

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
            order = torch.randperm(self.count, generator=_generator(self.seed, self.stream, turn))
            self._last = turn, order
        return self._last[1]


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix_seed(*parts))


def _shape(data: ImageSet | FileSet) -> str:
    return "x".join(map(str, data.image_shape))
