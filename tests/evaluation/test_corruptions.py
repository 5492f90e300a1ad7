"""Common corruptions: each against its formula, growing with the severity, and the means in closed form."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.evaluation.corruptions import CORRUPTIONS, SEVERITIES, STRENGTHS, corrupt
from kdiga.model_state import seeded
from kdiga.runs.fingerprints import fingerprint_of_model


@pytest.fixture(scope="module")
def images():
    with seeded(1):
        coarse = torch.rand(6, 3, 8, 8)
    return nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


@pytest.mark.parametrize("side", [8, 28, 32, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_corruption_takes_digits_cifar_and_larger_images(side, channels):
    assert CORRUPTIONS.keys() == STRENGTHS.keys()
    image = torch.rand(2, channels, side, side)
    for name in CORRUPTIONS:
        found = corrupt(image, name, 5, 0)
        assert found.shape == image.shape
        assert found.min() >= 0
        assert found.max() <= 1
        assert not torch.equal(found, image)


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_higher_severity_changes_images_more_and_the_seed_decides(name, images):
    changes = [float((corrupt(images, name, severity, 0) - images).square().mean()) for severity in SEVERITIES]
    if name != "pixelate":  # how far pixels move also depends on which sides the smaller image has
        assert changes == sorted(changes)
    assert changes[0] < changes[-1]
    assert torch.equal(corrupt(images, name, 3, 7), corrupt(images, name, 3, 7))
    assert torch.equal(corrupt(images, name, 3, 7), corrupt(images, name, 3, 8)) == ("noise" not in name)


def test_formulas(images):
    grey = torch.full((50, 1, 32, 32), 0.5)
    assert float((corrupt(grey, "gaussian_noise", 5, 0) - grey).std()) == pytest.approx(0.1, rel=0.02)
    assert float(corrupt(grey, "shot_noise", 5, 0).std()) == pytest.approx(math.sqrt(0.5 / 50), rel=0.02)
    salted = corrupt(grey, "impulse_noise", 5, 0)
    assert float((salted == 1).float().mean()) == pytest.approx(0.035, rel=0.1)
    assert float((salted == 0).float().mean()) == pytest.approx(0.035, rel=0.1)
    means = images.mean((2, 3), keepdim=True)
    assert torch.allclose(corrupt(images, "contrast", 5, 0), (images - means) * 0.15 + means)
    assert torch.allclose(corrupt(images, "brightness", 1, 0).amax(1), (images.amax(1) + 0.05).clamp(max=1), atol=1e-6)
    blurred = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, 0.7, 0.7), mode="mirror", truncate=4))
    assert torch.allclose(corrupt(images, "gaussian_blur", 3, 0), blurred, atol=1e-5)
    assert len(corrupt(images, "pixelate", 5, 0)[0, 0].unique()) <= 20 * 20


class Brightness(nn.Module):
    """Says class 1 where the mean pixel is above a half."""

    def forward(self, images):
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_means_and_the_worst_class():
    """Only brightness, by more than 0.1, moves grey images of class 0 over the edge: at severities 3 to 5."""
    images = torch.cat([torch.full((10, 1, 16, 16), 0.39), torch.full((30, 1, 16, 16), 0.9)])
    labels = (images[:, 0, 0, 0] > 0.5).long()
    found = kdiga.evaluate(Brightness(), [(images, labels)], attacks=["clean"], corruptions=True).corruptions
    assert found.strengths_of == "CIFAR-10-C"
    assert found.accuracy["brightness"] == pytest.approx([1, 1, 0.75, 0.75, 0.75])
    assert found.accuracy["contrast"] == [1.0] * 5
    assert found.mean == pytest.approx(1 - 10 * 3 / (40 * 40))
    assert (found.worst_class.label, found.worst_class.examples) == (0, 10)
    assert found.worst_class.accuracy == pytest.approx(37 / 40)
    assert found.interval[0] < found.mean < found.interval[1]


def test_logits_that_are_not_finite_are_wrong():
    class Broken(nn.Module):
        """Class 0 at grey images; NaN, whose argmax is class 0 as well, at all others."""

        def forward(self, images):
            is_grey = (images - 0.39).abs().amax((1, 2, 3)) < 0.01
            return torch.where(is_grey[:, None], torch.tensor([1.0, 0.0]), torch.nan)

    batch = torch.full((2, 1, 16, 16), 0.39), torch.zeros(2, dtype=torch.int64)
    found = kdiga.evaluate(Broken(), [batch], attacks=["clean"], corruptions=True, eps=0).corruptions
    assert found.accuracy["contrast"] == [1.0] * 5
    assert found.accuracy["brightness"] == [0.0] * 5


def test_the_cache_gives_the_same_and_other_channels_are_refused(tmp_path):
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 2
    ask = {"attacks": ["clean"], "corruptions": True, "folder": tmp_path, "batch_size": 5}
    first, again = (kdiga.evaluate(Brightness(), [(images, labels)], **ask) for _ in range(2))
    assert first.corruptions == again.corruptions
    keys = [json.loads(path.read_text())["key"] for path in tmp_path.glob("*.json")]
    assert sum("corruption" in key for key in keys) == 3 * len(CORRUPTIONS)
    with pytest.raises(InputError, match="4 channels"):
        kdiga.evaluate(Brightness(), [(torch.rand(2, 4, 8, 8), labels[:2])], attacks=["clean"], corruptions=True)


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_left_as_found(student):
    """Also where its key in the cache is computed, which takes passes of a module without a description."""
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    before = {name: value.clone() for name, value in student.train().state_dict().items()}
    found = kdiga.evaluate(student, [(images, labels)], attacks=["clean"], corruptions=True).corruptions
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    keys = [fingerprint_of_model(student.train(mode), images) for mode in (True, False)]
    assert keys[0] == keys[1]
    assert found == kdiga.evaluate(student.eval(), [(images, labels)], attacks=["clean"], corruptions=True).corruptions
