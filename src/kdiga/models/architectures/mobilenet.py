"""MobileNetV2 (Sandler et al., 2018) with the strides of 32x32 images, named as in the common CIFAR repository."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdiga.models.classifier import ModelSpec
from kdiga.models.registry import register

STAGES = (  # expansion, channels, blocks, first stride
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; a shortcut where the size stays the same."""

    def __init__(self, in_planes: int, planes: int, expansion: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        hidden = expansion * in_planes
        self.stride = stride
        self.conv1 = nn.Conv2d(in_planes, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.activation = activation()
        self.shortcut = nn.Sequential()
        if stride == 1 and in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.activation(self.bn2(self.conv2(out)))))
        return out + self.shortcut(x) if self.stride == 1 else out


WIDTHS = {"mobilenet-v2": 1.0, "mobilenet-v2-050": 0.5, "mobilenet-v2-035": 0.35}  # width multipliers, by name


@register(*WIDTHS)
def build_mobilenet(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """MobileNetV2: stem, seven stages, a 1x1 convolution to 1280 channels, mean pooling, a linear layer.

    As in the paper, a width below 1 leaves the last convolution at 1280 channels.
    """
    width_multiplier = WIDTHS[spec.name]
    planes, blocks = _channels(32, width_multiplier), list[nn.Module]()
    stem = nn.Conv2d(spec.in_channels, planes, 3, padding=1, bias=False)
    first_norm = nn.BatchNorm2d(planes)
    for expansion, channels, depth, first in STAGES:
        width = _channels(channels, width_multiplier)
        for position in range(depth):
            blocks.append(InvertedResidual(planes, width, expansion, first if position == 0 else 1, activation))
            planes = width
    layers = OrderedDict[str, nn.Module](
        conv1=stem,
        bn1=first_norm,
        activation1=activation(),
        layers=nn.Sequential(*blocks),
        conv2=nn.Conv2d(planes, 1280, 1, bias=False),
        bn2=nn.BatchNorm2d(1280),
        activation2=activation(),
        mean=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        linear=nn.Linear(1280, spec.num_classes),
    )
    return nn.Sequential(layers)


def _channels(channels: int, width_multiplier: float) -> int:
    """Return a number of channels times the multiplier: a multiple of 8, and no less than 90 % of the product."""
    product = channels * width_multiplier
    rounded = max(8, int(product + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * product else rounded
