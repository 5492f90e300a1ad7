"""Mistakes at the public functions: one sentence each, and no message of a library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError

IMAGES, LABELS = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
QUICK = {"method": "ce", "epochs": 1, "batch_size": 10, "validation_steps": 1}


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def frozen():
    return net().requires_grad_(False)


class Pair(nn.Module):
    """A model that returns two outputs, neither of them named logits."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, images):
        return {"scores": self.net(images), "images": images}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kdiga.align(net(), net(), IMAGES[:0], LABELS[:0]), "the batch held no image"),
        (lambda: kdiga.align(frozen(), net(), IMAGES, LABELS), "no parameter of the student requires a gradient"),
        (
            lambda: kdiga.align(frozen(), net(), IMAGES, LABELS, route="finite-difference"),
            "no parameter of the student requires a gradient",
        ),
        (lambda: kdiga.align(net(), net(), IMAGES.numpy(), LABELS), "images were ndarray"),
        (lambda: kdiga.align(net(), net(), IMAGES, LABELS.tolist()), "labels were list"),
        (
            lambda: kdiga.distill(frozen(), None, (IMAGES, LABELS), **QUICK),
            "no parameter of the student requires a gradient",
        ),
        (lambda: kdiga.distill(net(), None, [], **QUICK), "the training data holds no batch"),
        (lambda: kdiga.distill(net(), None, (IMAGES.numpy(), LABELS.numpy()), **QUICK), "labels were ndarray"),
        (lambda: kdiga.distill(net(), None, (IMAGES.tolist(), LABELS), **QUICK), "images were list"),
        (lambda: kdiga.distill(net(), None, (IMAGES.double(), LABELS), **QUICK), "images were torch.float64"),
        (
            lambda: kdiga.distill(Pair(), None, (IMAGES, LABELS), **QUICK),
            "the model returned dict with 'scores', 'images'",
        ),
        (lambda: kdiga.distill(net(), None, (IMAGES, LABELS), **QUICK, seed=-1), "seed was -1"),
        (lambda: kdiga.evaluate(Pair(), [(IMAGES, LABELS)]), "the model returned dict with 'scores', 'images'"),
        (lambda: kdiga.evaluate(net().double(), [(IMAGES, LABELS)]), "images were torch.float32"),
        (lambda: kdiga.evaluate(net(), [(IMAGES, LABELS)], seed=2**80), "seed was 1208925819614629174706176"),
        (lambda: kdiga.evaluate(net(), [(np.zeros((2, 1, 4, 4)), LABELS)]), "images were ndarray"),
    ],
)
def test_a_mistake_is_one_sentence(call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)
