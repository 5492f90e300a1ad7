"""Training images with extra ones, real or generated, that only batches contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet, described
from kdiga.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class MixedSet:
    """A set of training images, and extra images that only batches contain.

    Length, labels, splits and moments are those of the original images: validation images are never extra ones.

    Args:
        original: The training images.
        extra: Extra images of the same size and channels, with labels of the original's classes.
        share: Share of extra images in each batch, in (0, 1).
        unlabelled: Whether the extra images have no labels: batches then have -100 for them.

    Raises:
        InputError: for another share, or images that do not go together.
    """

    original: ImageSet | FileSet
    extra: ImageSet | FileSet
    share: float
    unlabelled: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"the share of extra images was {self.share!r}; it must be above 0 and below 1, as 0.7.")
        if self.original.image_shape != self.extra.image_shape:
            shapes = ["x".join(map(str, data.image_shape)) for data in (self.extra, self.original)]
            raise InputError(f"the extra images are {shapes[0]} and the training images {shapes[1]}; they must agree.")
        if int(self.extra.labels.max()) >= self.original.num_classes:
            raise InputError(
                f"an extra image has label {int(self.extra.labels.max())} and the training images have "
                f"{self.original.num_classes} classes, from 0; the extra ones must be of these classes."
            )

    def __len__(self) -> int:
        """Return the number of original examples."""
        return len(self.original)

    def __repr__(self) -> str:
        """Return the number of images, their shape and classes in one line."""
        return described(self, self.image_shape, self.num_classes)

    @property
    def labels(self) -> Tensor:
        """Labels of the original examples."""
        return self.original.labels

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.original.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.original.num_classes

    @property
    def in_channels(self) -> int:
        """Number of channels: 1 for grey, 3 for colour."""
        return self.original.in_channels

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.original.image_size

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.original.image_shape

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
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
