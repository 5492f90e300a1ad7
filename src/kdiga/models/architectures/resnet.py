"""Residual networks for small images, with the parameter names of the common public checkpoints.

The CIFAR and ImageNet families and the pre-activation form are He et al.'s (2016), the wide networks Zagoruyko and
Komodakis's (2016). ResNet-2B and ResNet-4B, adversarially trained on CIFAR-10 and used in alpha-beta-CROWN's and
VNN-COMP's benchmarks, have no batch norm: their convolutions have a bias.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.models.classifier import ModelSpec
from kdiga.models.registry import register

PLAIN = {  # name: channels of the stem, then of each stage's blocks
    "resnet2b": (8, (16,)),
    "resnet4b": (16, (32, 32)),
}
DEPTHS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks of each stage


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


class PreActBlock(nn.Module):
    """Norm, activation, convolution, twice; the shortcut branches off after the first activation.

    ``wide`` names the shortcut as Zagoruyko and Komodakis's basic block has it in the TRADES repository.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, activation: type[nn.Module], *, wide: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.activation = activation()
        self.projection = ""
        if stride != 1 or in_planes != planes:
            self.projection = "convShortcut" if wide else "shortcut"
            projection = nn.Conv2d(in_planes, planes, 1, stride, bias=False)
            self.add_module(self.projection, projection if wide else nn.Sequential(projection))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, not yet normalised."""
        out = self.activation(self.bn1(x))
        shortcut = self.get_submodule(self.projection)(out) if self.projection else x
        return self.conv2(self.activation(self.bn2(self.conv1(out)))) + shortcut


class WideStage(nn.Module):
    """A stage that names its blocks as the TRADES repository does."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.layer = blocks

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output."""
        return self.layer(x)


class SpatialMean(nn.Module):
    """The mean over all pixels of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return features (batch, channel)."""
        return x.mean((2, 3))


def _stages(
    block: Callable[[int, int, int], nn.Module],
    planes: int,
    widths: Sequence[int],
    depths: Sequence[int],
    first_stride: int = 1,
) -> list[nn.Module]:
    """Return stages of blocks, built from input channels, output channels and stride; later stages have stride 2."""
    found = list[nn.Module]()
    for width, depth in zip(widths, depths, strict=True):
        first = block(planes, width, 2 if found else first_stride)
        found.append(nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1))))
        planes = width
    return found


def _named(name: str, parts: Sequence[nn.Module]) -> dict[str, nn.Module]:
    return {f"{name}{number}": part for number, part in enumerate(parts, start=1)}


def _initialise(network: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode)


def _post_activation(
    spec: ModelSpec, activation: type[nn.Module], widths: Sequence[int], depths: Sequence[int], *, padded: bool
) -> nn.Module:
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(spec.in_channels, widths[0], 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(widths[0]),
        activation=activation(),
    )
    block = partial(BasicBlock, activation=activation, padded=padded)
    layers |= _named("layer", _stages(block, widths[0], widths, depths))
    layers |= {"mean": SpatialMean(), "linear": nn.Linear(widths[-1], spec.num_classes)}
    network = nn.Sequential(layers)
    _initialise(network, "fan_in")
    return network


@register("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
def build_thin(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """The CIFAR family of 6n + 2 layers: 16, 32, 64 channels, option-A shortcuts."""
    depth = (int(spec.name.removeprefix("resnet")) - 2) // 6
    return _post_activation(spec, activation, (16, 32, 64), (depth,) * 3, padded=True)


@register(*DEPTHS)
def build_wide(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """The ImageNet family with a 3x3 stem: 64 to 512 channels, projected shortcuts."""
    return _post_activation(spec, activation, (64, 128, 256, 512), DEPTHS[spec.name], padded=False)


@register(*PLAIN)
def build_plain(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """ResNet-2B or -4B: a 3x3 stem of stride 2, stages of two blocks that halve the size, two linear layers."""
    if spec.image_size < 8:
        raise InputError(f"{spec.name} needs images of at least 8 pixels and image_size was {spec.image_size}.")
    stem, widths = PLAIN[spec.name]
    side = -(-spec.image_size // 2 ** (1 + len(widths)))
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(spec.in_channels, stem, 3, 2, padding=1), activation1=activation()
    )
    block = partial(BasicBlock, activation=activation, normed=False)
    layers |= _named("layer", _stages(block, stem, widths, [2] * len(widths), first_stride=2))
    layers |= {"flat": nn.Flatten(), "linear1": nn.Linear(widths[-1] * side * side, 100)}
    layers |= {"activation2": activation(), "linear2": nn.Linear(100, spec.num_classes)}
    return nn.Sequential(layers)


@register("preact-resnet18")
def build_preact(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """PreAct ResNet-18 with a final batch norm, the usual student of adversarial training (Rice et al., 2020)."""
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(spec.in_channels, 64, 3, padding=1, bias=False))
    block = partial(PreActBlock, activation=activation, wide=False)
    layers |= _named("layer", _stages(block, 64, (64, 128, 256, 512), (2, 2, 2, 2)))
    layers |= {"bn": nn.BatchNorm2d(512), "activation": activation()}
    return nn.Sequential(layers | {"mean": SpatialMean(), "linear": nn.Linear(512, spec.num_classes)})


@register("wrn-16-4", "wrn-28-4", "wrn-28-10", "wrn-34-10", "wrn-34-20")
def build_wrn(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """A wide ResNet, WRN-depth-widen, the usual teacher."""
    _, depth, widen = spec.name.split("-")
    widths = [16 * int(widen) * factor for factor in (1, 2, 4)]
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(spec.in_channels, 16, 3, padding=1, bias=False))
    block = partial(PreActBlock, activation=activation, wide=True)
    layers |= _named("block", [*map(WideStage, _stages(block, 16, widths, [(int(depth) - 4) // 6] * 3))])
    layers |= {"bn1": nn.BatchNorm2d(widths[-1]), "activation": activation()}
    layers |= {"mean": SpatialMean(), "fc": nn.Linear(widths[-1], spec.num_classes)}
    network = nn.Sequential(layers)
    _initialise(network, "fan_out")
    return network
