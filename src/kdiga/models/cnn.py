"""A small convolutional network without batch norm, for small images and quick work."""

from __future__ import annotations

import math

from torch import nn

from kdiga.models.registry import ModelSpec, register


@register("cnn-4", "cnn-8", "cnn-16", "cnn-32", "cnn-64")
def build_cnn(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """Three 3x3 convolutions (``width``, 2x, 4x channels; strides 1, 2, 2) and a linear layer."""
    width = int(spec.name.removeprefix("cnn-"))
    side = math.ceil(spec.image_size / 4)  # two convolutions of stride 2 and padding 1 round up
    return nn.Sequential(
        nn.Conv2d(spec.in_channels, width, 3, padding=1),
        activation(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        activation(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(4 * width * side * side, spec.num_classes),
    )
