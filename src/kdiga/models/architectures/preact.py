"""Pre-activation ResNet-18 and wide ResNets, with the parameter names of the common public checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from kdiga.models.architectures.resnet import stage
from kdiga.models.classifier import ModelSpec
from kdiga.models.registry import register


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


class PreActResNet(nn.Module):
    """PreAct ResNet with a final batch norm, as in the robust-overfitting study (Rice et al., 2020)."""

    def __init__(self, spec: ModelSpec, blocks: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.in_channels, 64, 3, padding=1, bias=False)
        block, planes = partial(PreActBlock, activation=activation, wide=False), 64
        for number, depth in enumerate(blocks, start=1):
            width = 64 * 2 ** (number - 1)
            self.add_module(f"layer{number}", stage(block, planes, width, depth, 2 if number > 1 else 1))
            planes = width
        self.bn = nn.BatchNorm2d(planes)
        self.activation = activation()
        self.linear = nn.Linear(planes, spec.num_classes)
        self.depth = len(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv1(x)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.linear(self.activation(self.bn(x)).mean((2, 3)))


class _WideStage(nn.Module):
    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.layer = blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-depth-widen for 32x32 images (Zagoruyko and Komodakis, 2016)."""

    def __init__(self, spec: ModelSpec, depth: int, widen: int, activation: type[nn.Module]) -> None:
        super().__init__()
        per_stage, planes = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(spec.in_channels, planes, 3, padding=1, bias=False)
        block = partial(PreActBlock, activation=activation, wide=True)
        for number in (1, 2, 3):
            width = 16 * widen * 2 ** (number - 1)
            blocks = stage(block, planes, width, per_stage, 2 if number > 1 else 1)
            self.add_module(f"block{number}", _WideStage(blocks))
            planes = width
        self.bn1 = nn.BatchNorm2d(planes)
        self.activation = activation()
        self.fc = nn.Linear(planes, spec.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv1(x)
        for number in (1, 2, 3):
            x = self.get_submodule(f"block{number}")(x)
        return self.fc(self.activation(self.bn1(x)).mean((2, 3)))


@register("preact-resnet18")
def build_preact(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """PreAct ResNet-18, the usual student of adversarial training studies."""
    return PreActResNet(spec, (2, 2, 2, 2), activation)


@register("wrn-16-4", "wrn-28-4", "wrn-28-10", "wrn-34-10", "wrn-34-20")
def build_wrn(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """A wide ResNet, the usual teacher."""
    _, depth, widen = spec.name.split("-")
    return WideResNet(spec, int(depth), int(widen), activation)
