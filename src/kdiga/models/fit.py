"""Images of one size and number of channels in front of a network that takes another.

The layer is linear, so autograd's backward pass through it is its adjoint: an input gradient of the network arrives
in the pixels of the images, exactly, and alignment compares teacher and student there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.errors import InputError

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision turn colour to grey


class Fit(nn.Module):
    """Resizes and changes channels, where they differ.

    Sizes change by bilinear interpolation with antialiasing. Grey becomes colour by repetition, colour grey by
    luminance. It has nothing to learn and nothing to save.

    Args:
        size: height and width of what comes in, in pixels.
        channels: of what comes in.
        to_size: height and width of what goes out.
        to_channels: of what goes out.

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

    @property
    def changes_nothing(self) -> bool:
        """Whether what goes out is what comes in."""
        return self.size == self.to_size and self.channels == self.to_channels

    def forward(self, images: Tensor) -> Tensor:
        """Return images (batch, to_channels, to_size, to_size) of images (batch, channels, height, width)."""
        if self.channels > self.to_channels:  # the cheaper order: fewer channels to resize
            images = (images * self.luminance).sum(1, keepdim=True)
        if self.size != self.to_size:
            images = F.interpolate(
                images, (self.to_size, self.to_size), mode="bilinear", align_corners=False, antialias=True
            )
        return images.expand(-1, self.to_channels, -1, -1) if self.channels < self.to_channels else images
