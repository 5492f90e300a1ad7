"""Augmentation is a pure function of (seed, index, view)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdiga.data import Augmentation, augmentation_by_name
from kdiga.errors import InputError

CROP = Augmentation(pad=2, flip=True)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.arange(40 * 3 * 8 * 8).view(40, 3, 8, 8) % 251


def test_each_view_is_a_shift_and_a_flip_of_the_padded_image(images):
    index = torch.arange(40)
    views = CROP(images, index, seed=3, view=5)
    shifts, mirrored = set(), 0
    for image, view in zip(images, views, strict=True):
        padded = F.pad(image, (2, 2, 2, 2))
        found = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(view, padded[:, top : top + 8, left : left + 8].flip(-1) if flip
                           else padded[:, top : top + 8, left : left + 8])
        ]  # fmt: skip
        assert len(found) == 1
        shifts.add(found[0][:2])
        mirrored += found[0][2]
    assert len(shifts) > 12
    assert 10 < mirrored < 30


def test_a_view_does_not_depend_on_its_batch(images):
    index = torch.arange(40) + 1000
    whole = CROP(images, index, seed=3, view=5)
    torch.manual_seed(77)
    order = torch.randperm(40)
    assert torch.equal(CROP(images[order], index[order], seed=3, view=5), whole[order])
    assert torch.equal(CROP(images[7:8], index[7:8], seed=3, view=5), whole[7:8])


@pytest.mark.parametrize("change", [{"seed": 4}, {"view": 6}])
def test_seed_and_view_matter(images, change):
    index = torch.arange(40)
    one = CROP(images, index, **({"seed": 3, "view": 5} | change))
    assert not torch.equal(one, CROP(images, index, seed=3, view=5))


def test_bytes_stay_bytes(images):
    assert CROP(images.byte(), torch.arange(40), seed=0, view=0).dtype == torch.uint8


def test_shifts_are_uniform():
    counts = torch.zeros(3)
    marks = torch.zeros(3000, 1, 3, 3)
    marks[:, :, 1, 1] = 1
    for row in range(3):
        views = Augmentation(pad=1)(marks, torch.arange(3000), seed=1, view=2)
        counts[row] = views[:, 0, row].sum()
    assert (counts / 3000 - 1 / 3).abs().max() < 0.04


def test_names():
    assert augmentation_by_name("none", 32) == Augmentation()
    assert augmentation_by_name("crop", 32) == Augmentation(4)
    assert augmentation_by_name("crop-flip", 8) == Augmentation(1, flip=True)
    with pytest.raises(InputError, match="did you mean crop"):
        augmentation_by_name("cropp", 32)
