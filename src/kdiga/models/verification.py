"""Small robust networks of the verification literature, with the parameter names of their public checkpoints.

ResNet-2B and ResNet-4B, adversarially trained on CIFAR-10 and used in alpha-beta-CROWN's and VNN-COMP's benchmarks,
have no batch norm: their convolutions carry a bias. "conv-wide" is Wong and Kolter's (2018) network of two
convolutions, "conv-tiny" the small one that Madry et al.'s MNIST defence was trained with there.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.models.registry import ModelSpec, register

STRIDED = {  # name: kernel and padding of two convolutions of stride 2, their channels, width of the hidden layer
    "conv-wide": (4, 1, (16, 32), 100),
    "conv-tiny": (5, 2, (4, 8), 128),
}
SHAPES = {  # name: channels of the stem, then of each stage's blocks
    "resnet2b": (8, (16,)),
    "resnet4b": (16, (32, 32)),
}


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with bias and a shortcut, without batch norm."""

    def __init__(self, in_planes: int, planes: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1)
        self.activation = activation()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return self.activation(self.conv2(self.activation(self.conv1(x))) + self.shortcut(x))


class PlainResNet(nn.Module):
    """A 3x3 stem of stride 2, stages of two blocks of which the first halves the size, two linear layers."""

    def __init__(self, spec: ModelSpec, stem: int, stages: tuple[int, ...], activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.in_channels, stem, 3, 2, padding=1)
        self.activation = activation()
        planes, side = stem, (spec.image_size + 1) // 2
        self.stages: list[str] = []
        for number, width in enumerate(stages, start=1):
            blocks = [PlainBlock(planes, width, 2, activation), PlainBlock(width, width, 1, activation)]
            self.stages.append(f"layer{number}")
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            planes, side = width, (side + 1) // 2
        self.linear1 = nn.Linear(planes * side * side, 100)
        self.linear2 = nn.Linear(100, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.activation(self.conv1(x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear2(self.activation(self.linear1(x.flatten(1))))


@register(*SHAPES)
def build_plain_resnet(spec: ModelSpec, activation: type[nn.Module]) -> nn.Module:
    """ResNet-2B or -4B."""
    if spec.image_size < 8:
        raise InputError(f"{spec.name} needs images of at least 8 pixels and image_size was {spec.image_size}.")
    stem, stages = SHAPES[spec.name]
    return PlainResNet(spec, stem, stages, activation)


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
