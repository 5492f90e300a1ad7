"""Mistakes at the public functions: one sentence each, and no message of a library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import kdiga
from kdiga.errors import InputError

IMAGES, LABELS = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
QUICK = {"method": "ce", "epochs": 1, "batch_size": 10, "validation_steps": 1}


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def frozen():
    return net().requires_grad_(False)


class Stream(IterableDataset):
    """A data set that does not know its length."""

    def __iter__(self):
        return iter([(IMAGES[:10], LABELS[:10])] * 4)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, values):
        return self.factor * values


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
        (lambda: kdiga.align(net(), net(), IMAGES[:0], LABELS[:0]), "the batch was empty"),
        (lambda: kdiga.align(frozen(), net(), IMAGES, LABELS), "no parameter of the student requires a gradient"),
        (
            lambda: kdiga.align(frozen(), net(), IMAGES, LABELS, route="finite-difference"),
            "no parameter of the student requires a gradient",
        ),
        (lambda: kdiga.align(net(), net(), IMAGES.numpy(), LABELS), "images was of type ndarray; it must be a tensor"),
        (lambda: kdiga.align(net(), net(), IMAGES, LABELS.tolist()), "labels was of type list; it must be a tensor"),
        (
            lambda: kdiga.distill(frozen(), None, (IMAGES, LABELS), **QUICK),
            "no parameter of the student requires a gradient",
        ),
        (lambda: kdiga.distill(net(), None, [], **QUICK), "the training data holds no batch"),
        (lambda: kdiga.distill(net(), None, (IMAGES.numpy(), LABELS.numpy()), **QUICK), "labels were ndarray"),
        (lambda: kdiga.distill(net(), None, (IMAGES.tolist(), LABELS), **QUICK), "images was of type list"),
        (
            lambda: kdiga.distill(Pair(), None, (IMAGES, LABELS), **QUICK),
            "the model returned dict with 'scores', 'images'",
        ),
        (lambda: kdiga.distill(net(), None, (IMAGES, LABELS), **QUICK, seed=-1), "seed was -1"),
        (
            lambda: kdiga.distill(net(), None, DataLoader(Stream(), batch_size=None), **QUICK),
            "the training data has no length",
        ),
        (lambda: kdiga.align(net(), net().forward, IMAGES, LABELS), "teacher was of type method; .* give the model"),
        (
            lambda: kdiga.align(nn.Sequential(net(), Times(math.nan)), net(), IMAGES, LABELS),
            "the student returned logits that are not finite",
        ),
        (lambda: kdiga.input_gradient(net(), IMAGES, LABELS + 1), r"labels were in \[1, 2\]"),
        (lambda: kdiga.evaluate(Pair(), [(IMAGES, LABELS)]), "the model returned dict with 'scores', 'images'"),
        (
            lambda: kdiga.evaluate(net(), [(IMAGES, LABELS)], seed=2**80),
            "seed was 1208925819614629174706176; it must be a number of at most 64 bits",
        ),
        (lambda: kdiga.evaluate(net(), [(np.zeros((2, 1, 4, 4)), LABELS)]), "images were ndarray"),
    ],
)
def test_a_mistake_is_one_sentence(call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_evaluation_needs_no_length():
    found = kdiga.evaluate(net(), DataLoader(Stream(), batch_size=None), attacks=["clean"])
    assert found.examples == 40
