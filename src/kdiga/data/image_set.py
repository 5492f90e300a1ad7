"""A labelled set of images in memory, as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from kdiga.arguments import check_fields
from kdiga.checks import check_images, check_labels
from kdiga.errors import InputError, words_of


@dataclass(frozen=True, repr=False)
class ImageSet:
    """Labelled images in memory, before augmentation.

    Args:
        images: Images (example, channel, height, width); uint8, divided by 255 when a batch is made, or float in
            [0, 1].
        labels: Labels, integers (example,), in [0, num_classes); stored as int64.
        classes: Names of the classes.

    Raises:
        InputError: for other types or shapes, no example, or labels beyond the classes.
    """

    images: Tensor
    labels: Tensor
    classes: Sequence[str]

    def __post_init__(self) -> None:
        check_fields(self)
        if self.images.dtype != torch.uint8:
            check_images(self.images)
        if self.images.dim() != 4:
            raise InputError(
                f"images had shape {tuple(self.images.shape)}; an image set holds (example, channel, height, width)."
            )
        object.__setattr__(self, "labels", checked_labels(self.images, self.labels, self.classes))

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> ImageSet:
        """Return the set of two tensors; the names of its classes are their numbers."""
        check_labels(labels, images)
        largest = int(labels.long().max()) if len(labels) else 0
        return cls(images, labels, [str(number) for number in range(largest + 1)])

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.images)

    def __repr__(self) -> str:
        """Return the number of images, their shape and classes in one line."""
        return described(self, self.image_shape, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Number of channels: 1 for grey, 3 for colour."""
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.images.device

    def to(self, device: torch.device) -> ImageSet:
        """Return the set with its tensors on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, rows: Tensor | slice) -> ImageSet:
        """Return the examples of these rows."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def batches(self, batch_size: int = 250, *, examples: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float in [0, 1], and labels in stored order, without augmentation.

        Args:
            batch_size: Size of every batch but the last.
            examples: Number of examples, from the first; None for all.
        """
        count = len(self) if examples is None else min(examples, len(self))
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            yield to_pixels(self.images[start:stop]), self.labels[start:stop]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel, of pixels in [0, 1]."""
        means, stds = list[float](), list[float]()
        for channel in range(self.in_channels):  # one at a time: a float copy of the whole set is four times its size
            pixels = to_pixels(self.images[:, channel])
            means.append(round(float(pixels.mean()), 4))
            stds.append(round(max(float(pixels.std()), 1e-3), 4))
        return tuple(means), tuple(stds)


def described(data: Sized, shape: Sequence[int], num_classes: int) -> str:
    """Return a set of images in one line."""
    return f"{type(data).__name__}({len(data):,} images {'x'.join(map(str, shape))}, {num_classes} classes)"


def checked_labels(examples: Tensor, labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Return the labels of a set as int64.

    Args:
        examples: Images of the set, or their numbers; there are as many as labels.
        labels: Labels, integers (example,).
        classes: Names of the classes.

    Raises:
        InputError: for no example, labels of another type or shape, or labels beyond the classes.
    """
    if not len(examples):
        raise InputError("the set has no image; give at least one image with its label.")
    check_labels(labels, examples)
    labels = labels.long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise InputError(f"labels were in [{low}, {high}] for {len(classes)} classes; renumber them from 0.")
    return labels


def to_pixels(images: Tensor) -> Tensor:
    """Return bytes as floats in [0, 1], and floats as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


class Labelled(Protocol):
    """Any labelled set of examples."""

    @property
    def labels(self) -> Tensor:
        """Label of each example."""
        ...

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def take(self, rows: Tensor) -> Self:
        """Return the examples of these rows."""
        ...


L = TypeVar("L", bound=Labelled)


def split(data: L, share: float, seed: int) -> tuple[L, L]:
    """Cut a set in two by seed, each class in the same proportion.

    Args:
        data: The set.
        share: Share of the second part, in (0, 1).
        seed: Seed of the choice of examples; the choice depends on nothing else.

    Returns:
        The larger part and the part of ``share``, both in stored order.

    Raises:
        InputError: if a part would hold fewer examples than there are classes.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < share < 1:
        raise InputError(f"the validation share was {share!r}; it must be above 0 and below 1, for example 0.1.")
    rows = torch.arange(len(data))
    try:
        parts = train_test_split(rows.numpy(), test_size=share, random_state=seed, stratify=data.labels.numpy())
    except ValueError as error:
        classes = len(data.labels.unique())
        raise InputError(
            f"{len(data)} examples of {classes} classes cannot be cut with share {share}, since both parts need an "
            f"example of each class ({words_of(error)}); give more examples, or a validation set."
        ) from None
    larger, smaller = (data.take(torch.from_numpy(part).sort().values) for part in parts)
    return larger, smaller
