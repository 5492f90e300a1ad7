"""Residual networks for small images, with the parameter names of the common public checkpoints.

The CIFAR and ImageNet families are He et al.'s (2016). ResNet-2B and ResNet-4B, adversarially trained on CIFAR-10 and
used in alpha-beta-CROWN's and VNN-COMP's benchmarks, have no batch norm: their convolutions have a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.models.classifier import ModelSpec
from kdiga.models.registry import register

PLAIN = {  # name: channels of the stem, then of each stage's blocks
    "resnet2b": (8, (16,)),
    "resnet4b": (16, (32, 32)),
}


def stage(block: Callable[[int, int, int], nn.Module], planes: int, width: int, depth: int, stride: int) -> nn.Module:
    """Return ``depth`` blocks in a row, the first from ``planes`` to ``width`` channels and with the stride.

    ``block`` builds one from input channels, output channels and stride.
    """
    first = block(planes, width, stride)
    return nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1)))


class PaddedShortcut(nn.Module):
    """He et al.'s option A, without parameters: every second pixel, new channels zero."""

    def __init__(self, in_planes: int, planes: int) -> None:
        super().__init__()
        self.pad = (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of half the size with the new channels split evenly around the old ones."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; batch norm after each convolution, or convolutions with a bias."""

    def __init__(
        self,
        in_planes: int,
        planes: int,
        stride: int,
        activation: type[nn.Module],
        *,
        padded: bool = False,
        normed: bool = True,
    ) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if normed else nn.Identity
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=not normed)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=not normed)
        self.bn2 = norm(planes)
        self.activation = activation()
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = (
                PaddedShortcut(in_planes, planes)
                if padded
                else nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=not normed), norm(planes))
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks of which all but the first halve the size, mean pooling, a linear layer."""

    def __init__(
        self,
        spec: ModelSpec,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        activation: type[nn.Module],
        *,
        padded: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.activation = activation()
        block, planes = partial(BasicBlock, activation=activation, padded=padded), widths[0]
        self.stages = [f"layer{number}" for number in range(1, len(widths) + 1)]
        for name, width, depth in zip(self.stages, widths, blocks, strict=True):
            self.add_module(name, stage(block, planes, width, depth, 1 if name == "layer1" else 2))
            planes = width
        self.linear = nn.Linear(planes, spec.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.activation(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(x.mean((2, 3)))


class PlainResNet(nn.Module):
    """A 3x3 stem of stride 2, stages of two blocks of which the first halves the size, two linear layers."""

    def __init__(self, spec: ModelSpec, stem: int, widths: tuple[int, ...], activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.in_channels, stem, 3, 2, padding=1)
        self.activation = activation()
        block = partial(BasicBlock, activation=activation, normed=False)
        planes, side = stem, (spec.image_size + 1) // 2
        self.stages = [f"layer{number}" for number in range(1, len(widths) + 1)]
        for name, width in zip(self.stages, widths, strict=True):
            self.add_module(name, stage(block, planes, width, 2, 2))
            planes, side = width, (side + 1) // 2
        self.linear1 = nn.Linear(planes * side * side, 100)
        self.linear2 = nn.Linear(100, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.activation(self.conv1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear2(self.activation(self.linear1(x.flatten(1))))


@register("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
def build_thin(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """The CIFAR family of 6n + 2 layers: 16, 32, 64 channels, option-A shortcuts."""
    depth = (int(spec.name.removeprefix("resnet")) - 2) // 6
    return ResNet(spec, (16, 32, 64), (depth,) * 3, activation, padded=True)


@register("resnet10", "resnet18", "resnet34")
def build_wide(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """The ImageNet family with a 3x3 stem: 64 to 512 channels, projected shortcuts."""
    blocks = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[spec.name]
    return ResNet(spec, (64, 128, 256, 512), blocks, activation, padded=False)


@register(*PLAIN)
def build_plain(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """ResNet-2B or -4B."""
    if spec.image_size < 8:
        raise InputError(f"{spec.name} needs images of at least 8 pixels and image_size was {spec.image_size}.")
    stem, widths = PLAIN[spec.name]
    return PlainResNet(spec, stem, widths, activation)
