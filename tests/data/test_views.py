"""Augmentation is a pure function of (seed, index, view)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kdiga.data import Augmentation, ImageSet, MixedSet, ResizedCrop, augmentation_by_name, feed_of
from kdiga.decoding import ATTEMPTS, Crops, DecodeItem, crop_box, decode
from kdiga.errors import InputError
from kdiga.training import TrainingSettings
from kdiga.training.teacher_sources import live_source
from tests.data.pictures import picture

CROP = Augmentation(pad=2, flip=True)


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_depends_on_seed_example_and_view_alone(name, channels):
    bytes_ = torch.arange(12 * channels * 64).view(12, channels, 8, 8).remainder(251).byte()
    policy, index = augmentation_by_name(name, 8), torch.arange(12)
    state = torch.get_rng_state()
    views = policy(bytes_, index, seed=3, view=1)
    assert torch.equal(torch.get_rng_state(), state)
    few = torch.tensor([7, 2])
    assert torch.equal(policy(bytes_[few], few, seed=3, view=1), views[few])
    assert (views.dtype, views.shape) == (torch.uint8, bytes_.shape)
    assert not torch.equal(policy(bytes_, index, seed=3, view=2), views)
    assert not torch.equal(views, Augmentation(1, flip=True)(bytes_, index, seed=3, view=1))
    assert torch.equal((255 * policy(bytes_ / 255, index, seed=3, view=1)).round().byte(), views)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("randaugment", (2, 8, 8), "augmentation 'randaugment' is for images of 1 or 3 channels, and these have 2"),
        ("trivialaugment", (4, 8, 8), "augmentation 'trivialaugment' is for images of 1 or 3 channels"),
        ("resized-crop-flip", (3, 8, 12), "augmentation 'resized-crop-flip' is for square images, and these are 12x8"),
    ],
)
def test_an_augmentation_that_does_not_suit_the_images_is_refused_before_the_first_batch(name, shape, message):
    data = ImageSet(torch.zeros(6, *shape, dtype=torch.uint8), torch.arange(6) % 2, "ab")
    augmentation = augmentation_by_name(name, data.image_size)
    with pytest.raises(InputError, match=message):
        feed_of(data, batch_size=2, seed=0, augmentation=augmentation, device=torch.device("cpu"))
    with pytest.raises(InputError, match=message):
        feed_of(MixedSet(data, data, 0.5), batch_size=2, seed=0, augmentation=augmentation, device=torch.device("cpu"))
    with pytest.raises(InputError, match=message):
        live_source(torch.nn.Identity(), data, None, TrainingSettings(augment=name))


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
            if torch.equal(
                view,
                padded[:, top : top + 8, left : left + 8].flip(-1)
                if flip
                else padded[:, top : top + 8, left : left + 8],
            )
        ]
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
    assert augmentation_by_name("resized-crop-flip", 224) == ResizedCrop(224)
    with pytest.raises(InputError, match="did you mean crop"):
        augmentation_by_name("cropp", 32)


def draws(count: int) -> np.ndarray:
    return ResizedCrop(8).crops(torch.arange(count), seed=1, view=2).draws


def off_uniform(values: np.ndarray) -> float:
    """Return the largest distance of some values' distribution from the uniform one in [0, 1]."""
    return float(np.abs(np.sort(values) - np.linspace(0, 1, len(values))).max())


def test_random_parts_have_the_area_and_shape_they_should():
    """Area uniform in [0.08, 1], aspect log-uniform in [3/4, 4/3], wherever the first attempt fits; always inside."""
    boxes = np.array([crop_box(1000, 1000, one) for one in draws(4000)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 1000).all()
    left, _, wide, tall = boxes[boxes[:, 2] * boxes[:, 3] < 0.7e6].T  # every shape of such an area fits
    assert off_uniform((wide * tall / 1e6 - 0.08) / (0.7 - 0.08)) < 0.04
    assert off_uniform(np.log(wide / tall) / np.log(16 / 9) + 0.5) < 0.04
    assert off_uniform(left / (1000 - wide)) < 0.04


def test_a_part_that_never_fits_is_the_middle():
    large = np.full((ATTEMPTS, 4), 0.999)
    assert crop_box(100, 20, large) == (36, 0, 27, 20)
    assert crop_box(20, 100, large) == (0, 36, 20, 27)


def test_random_parts_of_images_in_memory():
    """Of an image that rises evenly from left to right and top to bottom, a resized part does too, at its own rate."""
    ramp = torch.linspace(0, 1, 64).expand(64, 64)
    images = torch.stack([ramp, ramp.T]).expand(30, 2, 64, 64)
    index = torch.arange(30)
    views, crops = ResizedCrop(16)(images, index, seed=3, view=4), ResizedCrop(16).crops(index, seed=3, view=4)
    centre, inner = torch.arange(16) + 0.5, slice(3, -3)  # antialiasing looks beyond the edges
    for view, one, flip in zip(views, crops.draws, crops.mirrored, strict=True):
        left, top, wide, tall = crop_box(64, 64, one)
        across, down = view[0, 8].flip(0) if flip else view[0, 8], view[1, :, 8]
        assert torch.allclose(across[inner], ((left + centre * wide / 16 - 0.5) / 63)[inner], atol=2e-3)
        assert torch.allclose(down[inner], ((top + centre * tall / 16 - 0.5) / 63)[inner], atol=2e-3)
    assert 5 < crops.mirrored.sum() < 25
    assert torch.equal(ResizedCrop(16)(images[7:9], index[7:9], seed=3, view=4), views[7:9])
    assert not torch.equal(ResizedCrop(16)(images, index, seed=3, view=5), views)
    assert ResizedCrop(16)((images * 255).byte(), index, seed=3, view=4).dtype == torch.uint8


def test_random_parts_of_files_are_those_of_memory(tmp_path):
    """At a size that needs no smaller decoding the two ways differ by rounding alone."""
    picture(tmp_path / "one.png", (64, 64), 7)
    crops = ResizedCrop(24).crops(torch.arange(12), seed=1, view=0)
    item = DecodeItem(str(tmp_path / "one.png"), "one")
    from_file = decode([item] * 12, 24, crops)
    held = torch.from_numpy(decode([item], 64)).permute(0, 3, 1, 2).expand(12, -1, -1, -1)
    in_memory = ResizedCrop(24)(held, torch.arange(12), seed=1, view=0).permute(0, 2, 3, 1).numpy()
    assert np.abs(from_file.astype(int) - in_memory.astype(int)).max() <= 2


def test_large_jpegs_are_decoded_to_fewer_pixels_and_look_the_same(tmp_path):
    for suffix in ("jpg", "png"):
        picture(tmp_path / f"one.{suffix}", (800, 600), 7)
    jpg, png = (DecodeItem(str(tmp_path / f"one.{suffix}"), "") for suffix in ("jpg", "png"))
    still = Crops(np.tile([0.999, 0.5, 0.0, 0.0], (1, ATTEMPTS, 1)), np.zeros(1, bool))
    for crops in (None, still):
        large, exact = (decode([item], 32, crops).astype(int) for item in (jpg, png))
        assert np.abs(large - exact).max() <= 8


def test_parts_are_not_decoded_to_fewer_pixels_than_they_keep(tmp_path):
    coarse = np.random.default_rng(3).integers(0, 256, (24, 24, 3), np.uint8)
    for suffix in ("jpg", "png"):
        Image.fromarray(coarse).resize((192, 192), Image.Resampling.BICUBIC).save(tmp_path / f"one.{suffix}")
    jpg, png = (DecodeItem(str(tmp_path / f"one.{suffix}"), "") for suffix in ("jpg", "png"))
    whole = Crops(np.tile([0.999, 0.5, 0.0, 0.0], (1, ATTEMPTS, 1)), np.zeros(1, bool))
    for crops in (None, whole):
        found, exact = (decode([item], 90, crops).astype(int) for item in (jpg, png))
        assert np.abs(found - exact).mean() < 6
