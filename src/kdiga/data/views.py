"""Augmentation as a pure function of (seed, index, view), in batches, on any device.

An example in a view always has the same pixels, in every batch, after any other draws and on every machine. So a
teacher's signal can be stored and found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdiga.data.transfer import to_device
from kdiga.decoding import ATTEMPTS, Crops, crop_box
from kdiga.errors import InputError, check_known
from kdiga.model_state import seeded_on_cpu

POLICY = 105  # random stream of a seed


@dataclass(frozen=True)
class Augmentation:
    """Random shift within a zero-padded border, and random horizontal flip.

    Args:
        pad: Border in pixels; 0 for no shift.
        flip: Whether to mirror half of the examples.
    """

    pad: int = 0
    flip: bool = False

    def key(self) -> str:
        """Return the settings as text for the manifest of a teacher cache, a persistent format."""
        return f"Augmentation(pad={self.pad}, flip={self.flip})"

    def __call__(self, images: Tensor, index: Tensor, *, seed: int, view: int) -> Tensor:
        """Return the view of each image.

        Args:
            images: Images (batch, channel, height, width), bytes or floats.
            index: Row of each example in its data set, int64 (batch,).
            seed: Seed of the run.
            view: Number of the view, from 0; usually the epoch.
        """
        if not self.pad and not self.flip:
            return images
        index = to_device(index, images.device)
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device).expand(len(images), -1)
        columns = torch.arange(width, device=images.device).expand(len(images), -1)
        if self.flip:
            mirrored = (_draw(seed, index, view, stream=2) & 1).bool()
            columns = torch.where(mirrored[:, None], columns.flip(-1), columns)
        if self.pad:
            top, left = (_draw(seed, index, view, stream) % (2 * self.pad + 1) for stream in (0, 1))
            images, rows, columns = F.pad(images, (self.pad,) * 4), rows + top[:, None], columns + left[:, None]
        # One gather for shift and flip, and few operations on the whole index: they take most of the loader's time.
        at = ((rows * images.shape[-1])[:, :, None] + columns[:, None, :]).flatten(1)
        at = at[:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, at).unflatten(2, (height, width))


@dataclass(frozen=True)
class ResizedCrop:
    """A random crop of each image, resized, and a random flip: the usual augmentation for ImageNet.

    The crop is that of :func:`kdiga.decoding.crop_box`. Images on disk are cut from the file itself, with the detail
    that resizing the whole image would lose; images in memory are cut from their pixels, the middle of the file's.

    Args:
        size: Height and width of the result, in pixels.
    """

    size: int

    def key(self) -> str:
        """Return the settings as text; see :meth:`Augmentation.key`."""
        return f"ResizedCrop(size={self.size})"

    def crops(self, index: Tensor, *, seed: int, view: int) -> Crops:
        """Return the random numbers of some examples; the arguments are those of a call."""
        index = index.cpu()
        numbers = torch.stack([_draw(seed, index, view, stream) for stream in range(3, 3 + 4 * ATTEMPTS)], dim=1)
        draws = (numbers >> 10).double() / 2**53
        mirrored = (_draw(seed, index, view, stream=2) & 1).bool()
        return Crops(draws.view(-1, ATTEMPTS, 4).numpy(), mirrored.numpy())

    def __call__(self, images: Tensor, index: Tensor, *, seed: int, view: int) -> Tensor:
        """Return the view of each image in memory, (batch, channel, size, size), of the same type.

        The arguments are those of :class:`Augmentation`'s call.
        """
        crops, views = self.crops(index, seed=seed, view=view), list[Tensor]()
        height, width = images.shape[-2:]
        for image, draws, mirrored in zip(images, crops.draws, crops.mirrored.tolist(), strict=True):
            left, top, wide, tall = crop_box(width, height, draws)
            part = image[None, :, top : top + tall, left : left + wide].float()
            part = F.interpolate(part, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
            views.append(part.flip(-1) if mirrored else part)
        found = torch.cat(views)
        return found.round_().clamp_(0, 255).byte() if images.dtype == torch.uint8 else found.clamp_(0, 1)


@dataclass(frozen=True)
class Policy:
    """A random shift and flip, and then one of torchvision's policies: RandAugment or TrivialAugment.

    Args:
        name: "randaugment" (Cubuk et al., 2020: two operations of magnitude 9 of 30) or "trivialaugment" (Müller and
            Hutter, 2021: one operation of random magnitude).
        pad: Border of the shift in pixels.
    """

    name: Literal["randaugment", "trivialaugment"]
    pad: int

    def key(self) -> str:
        """Return the settings as text; see :meth:`Augmentation.key`."""
        return f"Policy(name={self.name}, pad={self.pad})"

    def __call__(self, images: Tensor, index: Tensor, *, seed: int, view: int) -> Tensor:
        """Return the view of each image, of the same type; the arguments are those of :class:`Augmentation`'s call."""
        from torchvision.transforms import v2  # few runs need it

        transform = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[self.name]()
        images = Augmentation(self.pad, flip=True)(images, index, seed=seed, view=view)
        pixels = images if images.dtype == torch.uint8 else (255 * images).round().byte()
        found = list[Tensor]()
        for image, row in zip(pixels, index.tolist(), strict=True):
            with seeded_on_cpu(seed, POLICY, row, view):
                found.append(transform(image))
        return torch.stack(found) if images.dtype == torch.uint8 else torch.stack(found).to(images.dtype) / 255


View = Augmentation | ResizedCrop | Policy
"""An augmentation: it makes the views of examples."""


def augmentation_by_name(name: str, image_size: int) -> View:
    """Return an augmentation; its shift has a border of an eighth of the image.

    Args:
        name: "none", "crop", "crop-flip", "resized-crop-flip", "randaugment" or "trivialaugment".
        image_size: Height and width of the images in pixels.

    Raises:
        InputError: for another name.
    """
    pad = max(1, image_size // 8)
    known: dict[str, View] = {
        "none": Augmentation(),
        "crop": Augmentation(pad),
        "crop-flip": Augmentation(pad, flip=True),
        "resized-crop-flip": ResizedCrop(image_size),
        "randaugment": Policy("randaugment", pad),
        "trivialaugment": Policy("trivialaugment", pad),
    }
    check_known("augmentation", name, known)
    return known[name]


def check_view(view: View, image_shape: Sequence[int]) -> None:
    """Check that an augmentation suits images.

    Args:
        view: The augmentation.
        image_shape: Channels, height and width of the images.

    Raises:
        InputError: for a policy on images that are neither grey nor colour, or random crops of images that are not
            square.
    """
    channels, height, width = image_shape
    if isinstance(view, Policy) and channels not in (1, 3):
        raise InputError(
            f"augmentation {view.name!r} is for images of 1 or 3 channels, and these have {channels}; use 'crop-flip'."
        )
    if isinstance(view, ResizedCrop) and height != width:
        raise InputError(
            f"augmentation 'resized-crop-flip' is for square images, and these are {width}x{height}; use 'crop-flip', "
            "or make them square."
        )


def _draw(seed: int, index: Tensor, view: int, stream: int) -> Tensor:
    """Return a non-negative pseudo-random int64 for each index: splitmix64's finaliser over a counter."""
    state = _mix(torch.full_like(index, _signed(seed * 0x9E3779B97F4A7C15 + stream)))
    state = _mix(state ^ (index + _signed(view * 0xD1342543DE82EF95)))
    return _mix(state) & 0x7FFFFFFFFFFFFFFF


def _mix(state: Tensor) -> Tensor:
    state = state + _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shift_right(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift_right(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, bits: int) -> Tensor:
    # int64's own shift keeps the sign; the mask makes it the unsigned shift of the algorithm.
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value
