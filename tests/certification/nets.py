"""Small networks whose answers are known, and images away from 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdiga.certification.interval_network import trace_network
from kdiga.certification.interval_propagation import bound_gradients, bound_values
from kdiga.model_state import seeded
from kdiga.types import ThreatModel


def linear(seed: int = 1, classes: int = 4, pixels: int = 9) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()


def inner_images(count: int = 6, side: int = 3, channels: int = 1) -> Tensor:
    """Images that no ball of radius 0.25 takes out of [0, 1]."""
    with seeded(11):
        return 0.3 + 0.4 * torch.rand(count, channels, side, side, dtype=torch.float64)


def small_convolutional(seed: int = 3, classes: int = 4) -> nn.Module:
    """Everything that intervals cover, on 6x6 images of one channel, with statistics that are not trivial."""
    with seeded(seed):
        model = Residual(classes)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


class Residual(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.linear = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem((images - 0.4) / 0.3)))
        x = torch.relu(x + self.branch(x))
        x = torch.relu(self.down(nn.functional.pad(self.pool(x), (0, 1, 1, 0))[:, :, :, ::1]))
        return self.linear(x.mean((2, 3)))


def radii_in(ball: ThreatModel, images: Tensor) -> Tensor:
    return torch.full((len(images),), ball.eps, dtype=torch.float64)


@torch.no_grad()
def gradient_bounds(model: nn.Module, images: Tensor, labels: Tensor, *, ball: ThreatModel) -> tuple[Tensor, Tensor]:
    """Return proved bounds of the input gradients of all margins in a ball, (example, num_classes - 1, *image)."""
    network, images = trace_network(model, images[0]), images.double()
    bounds = bound_gradients(network, bound_values(network, images, radii_in(ball, images), ball.norm), labels.long())
    shape = len(images), len(network.weight) - 1, *images.shape[1:]
    return (bounds.center - bounds.radius).view(shape), (bounds.center + bounds.radius).view(shape)


def closed_form(model: nn.Module, images: Tensor, labels: Tensor, dual: int) -> Tensor:
    """Return the true radius of a linear classifier away from 0 and 1; 0 where it is wrong."""
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    logits = images.flatten(1) @ weight.T + bias
    radii = []
    for row, label in enumerate(labels.tolist()):
        others = [k for k in range(len(weight)) if k != label]
        ratios = [
            (logits[row, label] - logits[row, k]) / torch.linalg.vector_norm(weight[label] - weight[k], ord=dual)
            for k in others
        ]
        radii.append(max(float(min(ratios)), 0.0))
    return torch.tensor(radii, dtype=torch.float64)
