"""Layers between images in [0, 1] and a network: size and channels, then normalisation.

Normalisation is a layer, so that eps and input gradients of all models share one unit. The change of size and channels
is linear, so autograd's backward pass through it is its adjoint: an input gradient of the network arrives in the pixels
of the images, exactly, and alignment compares teacher and student there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.errors import InputError, check_known
from kdiga.io.safe_json_yaml import parse_json

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision turn colour to grey


@dataclass(frozen=True)
class Normalization:
    """Per-channel ``(pixel - mean) / std``, or one value for all channels."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not self.mean or len(self.mean) != len(self.std) or not finite or not all(one > 0 for one in self.std):
            raise InputError(
                f"normalization was mean {self.mean} and std {self.std}; both need one finite value, or one a channel, "
                "and std above 0."
            )


NORMALIZATIONS = {
    "none": Normalization(),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    # Common in public CIFAR-10 code: the mean of the images' own deviations.
    "cifar10-per-image": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "half": Normalization((0.5,), (0.5,)),
}


def normalization_by_name(given: str | Normalization | Sequence[Sequence[float]]) -> Normalization:
    """Return a named normalisation, or the one given as two lists ``[mean, std]`` or as JSON text of them."""
    if isinstance(given, Normalization):
        return given
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            return normalization_by_name(parse_json(given))
        except ValueError:
            raise InputError(
                f"normalization was {given!r:.80}; write the lists as '[[0.5, 0.5, 0.5], [0.2, 0.2, 0.2]]'."
            ) from None
    if isinstance(given, str):
        check_known("normalization", given, NORMALIZATIONS, "Or give [[mean, ...], [std, ...]].")
        return NORMALIZATIONS[given]
    try:
        mean, std = (tuple(float(value) for value in part) for part in given)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"normalization was {given!r}; give a name or [[mean, ...], [std, ...]].") from None
    return Normalization(mean, std)


class Normalize(nn.Module):
    """The normalisation layer. Its buffers are saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization, in_channels: int) -> None:
        super().__init__()
        if len(normalization.mean) not in (1, in_channels):
            raise InputError(
                f"normalization has {len(normalization.mean)} channels and the images {in_channels}; give one value, "
                "or one a channel."
            )
        self.register_buffer("mean", torch.tensor(normalization.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalization.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images."""
        return (images - self.mean) / self.std


class Fit(nn.Module):
    """Resizes images and changes their channels, where they differ from the network's.

    Sizes change by bilinear interpolation with antialiasing. Grey becomes colour by repetition, colour grey by
    luminance. The layer has no parameters and saves no buffers.

    Args:
        size: Height and width of the images in pixels.
        channels: Channels of the images.
        to_size: Height and width of the result.
        to_channels: Channels of the result.

    Raises:
        InputError: for channels that are neither equal nor grey and colour.
    """

    luminance: Tensor

    def __init__(self, size: int, channels: int, to_size: int, to_channels: int) -> None:
        super().__init__()
        if channels != to_channels and {channels, to_channels} != {1, 3}:
            raise InputError(
                f"images of {channels} channels do not suit a network of {to_channels}; only grey (1) and colour "
                "(3) are turned into each other."
            )
        self.size, self.channels, self.to_size, self.to_channels = size, channels, to_size, to_channels
        self.register_buffer("luminance", torch.tensor(LUMINANCE).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return images (batch, to_channels, to_size, to_size) of images (batch, channels, height, width)."""
        if self.channels > self.to_channels:  # the cheaper order: fewer channels to resize
            images = (images * self.luminance).sum(1, keepdim=True)
        if self.size != self.to_size:
            images = F.interpolate(
                images, (self.to_size, self.to_size), mode="bilinear", align_corners=False, antialias=True
            )
        return images.expand(-1, self.to_channels, -1, -1) if self.channels < self.to_channels else images
