"""Small models and data for every test. One thread: the suite runs in two processes."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pyautoattack
import pytest
import torch
from torch import nn

from kdiga.data import ImageSet
from kdiga.model_state import seeded

torch.set_num_threads(1)


def five_layers(seed: int, *, activation: type[nn.Module] = nn.SiLU, batch_norm: bool = True) -> nn.Module:
    """A convolutional classifier of 8x8 grey images, 10 classes."""
    norm = nn.BatchNorm2d if batch_norm else (lambda _: nn.Identity())
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            norm(6),
            activation(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            norm(8),
            activation(),
            nn.Flatten(),
            nn.Linear(8 * 16, 10),
        )


@pytest.fixture(autouse=True, scope="module")
def decoders_end_with_their_module():
    """Processes that decode images are kept for the next set; what a later test counts or signals is not theirs."""
    yield
    pools = getattr(sys.modules.get("kdiga.data.decoder_pool"), "_POOLS", {})
    while pools:
        pools.popitem()[1].shutdown()


@contextmanager
def few_iterations():
    """The official AutoAttack with few iterations of each attack: enough for all but its numbers."""
    build = pyautoattack.AutoAttack

    def short(*arguments, **options):
        official = build(*arguments, **options)
        official.apgd.n_iter = official.apgd_targeted.n_iter = official.fab.n_iter = 10
        official.square.n_queries = 100
        return official

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack, "AutoAttack", short)
        yield


@pytest.fixture
def short_autoattack():
    with few_iterations():
        yield


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve random images and labels."""
    with seeded(5):
        return torch.rand(12, 1, 8, 8), torch.randint(0, 10, (12,))


@pytest.fixture
def student() -> nn.Module:
    return five_layers(1)


@pytest.fixture
def teacher() -> nn.Module:
    return five_layers(2).eval()


@pytest.fixture(scope="session")
def stripes() -> ImageSet:
    """400 images of four classes: a bright stripe at one of four heights, in noise. Learnt in seconds."""
    with seeded(9):
        labels = torch.arange(400) % 4
        images = torch.rand(400, 1, 8, 8) * 0.3
        for row, label in enumerate(labels.tolist()):
            images[row, :, 2 * label : 2 * label + 2] += 0.6
    return ImageSet((images.clamp(0, 1) * 255).round().byte(), labels, ("a", "b", "c", "d"))
