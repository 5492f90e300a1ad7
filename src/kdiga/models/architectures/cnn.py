"""Small convolutional networks without batch norm, for small images and quick work.

"conv-wide" is Wong and Kolter's (2018) network of two convolutions, "conv-tiny" the small one that Madry et al.'s MNIST
defence was trained with there; their parameters are named as in the public checkpoints of the verification literature.
"""

from __future__ import annotations

import math

from torch import nn

from kdiga.models.classifier import ModelSpec
from kdiga.models.registry import register

STRIDED = {  # name: kernel and padding of two convolutions of stride 2, their channels, width of the hidden layer
    "conv-wide": (4, 1, (16, 32), 100),
    "conv-tiny": (5, 2, (4, 8), 128),
}


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


@register(*STRIDED)
def build_strided(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """Two strided convolutions and two linear layers, numbered as in an ``nn.Sequential``."""
    kernel, padding, (first, second), hidden = STRIDED[spec.name]
    side = spec.image_size
    for _ in range(2):
        side = (side + 2 * padding - kernel) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(spec.in_channels, first, kernel, 2, padding),
        activation(),
        nn.Conv2d(first, second, kernel, 2, padding),
        activation(),
        nn.Flatten(),
        nn.Linear(second * side * side, hidden),
        activation(),
        nn.Linear(hidden, spec.num_classes),
    )
