"""CIFAR-style residual networks (He et al., 2016), with the parameter names of the common public checkpoints."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.models.registry import ModelSpec, register


class PaddedShortcut(nn.Module):
    """He et al.'s option A: every second pixel, new channels zero. It has no parameters."""

    def __init__(self, in_planes: int, planes: int) -> None:
        super().__init__()
        self.pad = (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of half the size with the new channels split evenly around the old ones."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch norm, and a shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int, activation: type[nn.Module], *, padded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.activation = activation()
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = (
                PaddedShortcut(in_planes, planes)
                if padded
                else nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
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
        planes = widths[0]
        self.stages: list[str] = []
        for number, (width, depth) in enumerate(zip(widths, blocks, strict=True), start=1):
            layers: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if number > 1 and position == 0 else 1
                layers.append(BasicBlock(planes, width, stride, activation, padded=padded))
                planes = width
            self.stages.append(f"layer{number}")
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.linear = nn.Linear(planes, spec.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.activation(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))


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
