"""Normalisation as a layer, so that eps and input gradients of all models share one unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdiga.errors import InputError, unknown


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
    "half": Normalization((0.5,), (0.5,)),
}


def normalization_by_name(given: str | Normalization | Sequence[Sequence[float]]) -> Normalization:
    """Return a named normalisation, or the one given as ``[mean, std]``, each a list.

    Raises:
        InputError: for an unknown name or another shape.
    """
    if isinstance(given, Normalization):
        return given
    if isinstance(given, str):
        if given not in NORMALIZATIONS:
            raise unknown("normalization", given, NORMALIZATIONS, "Or give [[mean, ...], [std, ...]].")
        return NORMALIZATIONS[given]
    try:
        mean, std = (tuple(float(value) for value in part) for part in given)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"normalization was {given!r}; give a name or [[mean, ...], [std, ...]].") from None
    return Normalization(mean, std)


class Normalize(nn.Module):
    """The layer. Its buffers are saved with the weights."""

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
