"""Models whose gradients are hidden on purpose, each in a way of its own, and sound ones beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from kdiga.attacks import PGD
from kdiga.data import load_data
from kdiga.losses import cross_entropy
from kdiga.model_state import evaluating, seeded
from kdiga.types import ThreatModel

THREAT = ThreatModel("linf", 0.15)
WIDE = 8


def small(seed: int, *, channels: int = 1, classes: int = 10, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A convolutional classifier of 8x8 images."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(channels, WIDE, 3, padding=1),
            nn.BatchNorm2d(WIDE),
            activation(),
            nn.Conv2d(WIDE, 2 * WIDE, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * WIDE),
            activation(),
            nn.Flatten(),
            nn.Linear(2 * WIDE * 16, classes),
        )


def trained(model, images, labels, *, seed=0, epochs=12, threat=None, temperature=1.0):
    """Train by Adam, on adversarial images where a threat model is given; return it in eval mode."""
    attack = None if threat is None else PGD(threat=threat, steps=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with seeded(seed):
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(96):
                x, y = images[rows], labels[rows]
                if attack is not None:
                    with evaluating(model):
                        x = attack(lambda candidates, y=y: cross_entropy(model(candidates), y), x)
                model.train()
                optimizer.zero_grad()
                cross_entropy(model(x) / temperature, y).mean().backward()
                optimizer.step()
    return model.eval()


@cache
def digits():
    """Training and test tensors."""
    data = load_data("digits")
    return tuple(next(iter(part.batches(len(part)))) for part in (data.train, data.test))


@cache
def plain(seed=0):
    """Trained on clean digits: not robust, and not masked."""
    return trained(small(seed), *digits()[0], seed=seed)


@cache
def robust(seed=0, activation=nn.ReLU):
    """Trained on adversarial digits."""
    return trained(small(seed, activation=activation), *digits()[0], seed=seed, epochs=25, threat=THREAT)


class Around(nn.Module):
    """A function of images before a model, or of logits after it."""

    def __init__(self, model, before=None, after=None):
        super().__init__()
        self.model, self.before, self.after = model, before, after
        self.eval()

    def forward(self, images):
        logits = self.model(images if self.before is None else self.before(images))
        return logits if self.after is None else self.after(logits)


class SignFlipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.view_as(images)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class RandomBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.view_as(images)

    @staticmethod
    def backward(ctx, gradient):
        return torch.randn_like(gradient) * gradient.abs()


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.arange(10.0))
        self.eval()

    def forward(self, images):
        return self.bias.expand(len(images), 10)


def thermometer(images, levels=8):
    """One channel a threshold, as Buckman et al. (2018) encode pixels; no gradient passes."""
    return torch.cat([(images > (level + 0.5) / levels).float() for level in range(levels)], dim=1)


def through(before, seed=0, **options):
    """Train a model behind a function of its images."""
    return trained(Around(small(seed, **options), before), *digits()[0], seed=seed)


def steep(images):
    return torch.sigmoid(400 * (images - 0.5))


def high_frequency(images):
    return images + 1e-3 * torch.sin(1e6 * images)


def with_dropout(seed):
    model = plain(seed)
    return nn.Sequential(*list(model)[:6], nn.Dropout(0.5), *list(model)[6:]).eval()


class AlwaysDropout(nn.Module):
    def forward(self, images):
        return nn.functional.dropout(images, 0.3, training=True)


def left_in_train_mode(seed):
    model = with_dropout(seed)
    model[6].train()
    return model


def batch_statistics(seed):
    """Batch norm without running statistics uses those of the batch, in eval mode too."""
    model = small(seed)
    model[1], model[4] = (nn.BatchNorm2d(n, track_running_stats=False) for n in (WIDE, 2 * WIDE))
    return trained(model, *digits()[0], seed=seed)


class SaturatedActivation(nn.Module):
    def forward(self, features):
        return torch.sigmoid(1000 * features)


class Planted(NamedTuple):
    """A masked model, and the checks of which at least the first must flag it."""

    build: Callable[[int], nn.Module]
    expected: tuple[str, ...]


PLANTED: dict[str, Planted] = {
    "logits times 10,000": Planted(lambda seed: Around(plain(seed), after=lambda z: 1e4 * z), ("saturation",)),
    "trained at temperature 100": Planted(
        lambda seed: trained(small(seed), *digits()[0], seed=seed, epochs=40, temperature=100), ("saturation",)
    ),
    "pixels rounded to 8 levels": Planted(
        lambda seed: Around(plain(seed), lambda x: torch.round(x * 7) / 7), ("flat-loss", "random-search")
    ),
    "thermometer code": Planted(lambda seed: through(thermometer, seed, channels=8), ("flat-loss",)),
    "graph cut (detach)": Planted(
        lambda seed: Around(plain(seed), lambda x: x.detach()), ("flat-loss", "large-eps", "decision-based")
    ),
    "gradient of NaN (square of root)": Planted(
        lambda seed: Around(plain(seed), lambda x: x.sqrt() ** 2), ("flat-loss",)
    ),
    "saturated hidden layer": Planted(
        lambda seed: trained(small(seed, activation=SaturatedActivation), *digits()[0], seed=seed), ("flat-loss",)
    ),
    "steep sigmoid on pixels": Planted(lambda seed: through(steep, seed), ("black-box",)),
    "sign-flipped gradient": Planted(
        lambda seed: Around(plain(seed), SignFlipped.apply), ("true-gradient", "transfer")
    ),
    "random gradient": Planted(lambda seed: Around(plain(seed), RandomBackward.apply), ("true-gradient",)),
    "high-frequency layer": Planted(lambda seed: Around(plain(seed), high_frequency), ("true-gradient", "more-steps")),
    "noise on pixels": Planted(
        lambda seed: Around(plain(seed), lambda x: x + 0.1 * torch.randn_like(x)), ("deterministic",)
    ),
    "dropout in every mode": Planted(
        lambda seed: nn.Sequential(AlwaysDropout(), plain(seed)).eval(), ("deterministic",)
    ),
    "dropout left in train mode": Planted(left_in_train_mode, ("eval-mode",)),
    "statistics of the batch": Planted(batch_statistics, ("batch-independent",)),
    "ignores its input": Planted(lambda seed: Constant(), ("uses-input",)),
    "probabilities for logits": Planted(lambda seed: Around(plain(seed), after=lambda z: z.softmax(1)), ("logits",)),
}
