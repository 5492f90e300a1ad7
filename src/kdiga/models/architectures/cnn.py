"""Small convolutional networks without batch norm, for small images and quick work.

"conv-wide" is Wong and Kolter's (2018) network of two convolutions, "conv-tiny" the small one that Madry et al.'s MNIST
defence was trained with there; their parameters are named as in the public checkpoints of the verification literature.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    convolutions = [(width, 3, 1, 1), (2 * width, 3, 2, 1), (4 * width, 3, 2, 1)]
    return _network(spec, activation, convolutions, hidden=())


@register(*STRIDED)
def build_strided(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """Two strided convolutions and two linear layers, numbered as in an ``nn.Sequential``."""
    kernel, padding, widths, hidden = STRIDED[spec.name]
    return _network(spec, activation, [(width, kernel, 2, padding) for width in widths], hidden=(hidden,))


def _network(
    spec: ModelSpec,
    activation: type[nn.Module],
    convolutions: Sequence[tuple[int, int, int, int]],
    hidden: Sequence[int],
) -> nn.Module:
    """Return convolutions (channels, kernel, stride, padding) and linear layers, with activations between them."""
    layers, planes, side = list[nn.Module](), spec.in_channels, spec.image_size
    for width, kernel, stride, padding in convolutions:
        layers += [nn.Conv2d(planes, width, kernel, stride, padding), activation()]
        planes, side = width, (side + 2 * padding - kernel) // stride + 1
    layers.append(nn.Flatten())
    features = planes * side * side
    for width in hidden:
        layers += [nn.Linear(features, width), activation()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, spec.num_classes))
