"""Randomized smoothing against the closed form of a linear classifier, and against what a seed promises."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, norm

from kdiga.certification import smooth
from kdiga.certification.smoothing import Noise, certified_radius, lower_bound
from kdiga.errors import InputError
from tests.certification.nets import inner_images, linear
from tests.conftest import five_layers


def test_of_a_linear_classifier_of_two_classes_the_radius_is_the_distance():
    """Under noise the probability of the class is exactly Phi(distance / sigma): Cohen et al.'s bound is tight."""
    model, images = linear(classes=2), inner_images(12)
    logits = model(images).detach()
    labels = logits.argmax(1)
    weight = model[1].weight.detach()
    distance = ((logits.amax(1) - logits.amin(1)) / (weight[0] - weight[1]).norm()).tolist()
    found = smooth(model, images, labels, sigma=0.5, samples=20000, alpha=1e-4)
    assert max(found.radius) > 0.1
    for radius, true in zip(found.radius, distance, strict=True):
        assert radius <= true
        probability = norm.cdf(true / 0.5)
        spread = math.sqrt(probability * (1 - probability) / 20000)
        loose = 0.5 * norm.ppf(max(probability - 9 * spread, 0.5))
        assert radius >= loose - 1e-9


def test_of_several_classes_it_stays_below_the_distance():
    model, images = linear(classes=4), inner_images(12)
    logits = model(images).detach()
    labels = logits.argmax(1)
    weight = model[1].weight.detach()
    found = smooth(model, images, labels, sigma=0.3, samples=5000)
    for row, label in enumerate(labels.tolist()):
        gaps = [
            float((logits[row, label] - logits[row, k]) / (weight[label] - weight[k]).norm())
            for k in range(4)
            if k != label
        ]
        assert found.radius[row] <= min(gaps)
    assert sum(radius > 0 for radius in found.radius) >= 3


def test_the_bound_on_a_probability_fails_as_rarely_as_it_says():
    for probability in (0.6, 0.9, 0.97):
        failing = [k for k in range(201) if lower_bound(k, 200, 0.05) > probability]
        assert binom.pmf(failing, 200, probability).sum() <= 0.05
        assert binom.pmf([min(failing) - 1, *failing], 200, probability).sum() > 0.05, "and no more rarely than needed"
    assert lower_bound(0, 10, 0.05) == 0
    assert lower_bound(10, 10, 0.05) == pytest.approx(0.05 ** (1 / 10))


def test_radii_by_hand():
    assert certified_radius(1000, 1000, 0.25, 0.001) == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 1000)))
    assert certified_radius(500, 1000, 0.25, 0.001) == 0.0
    assert Noise(0.25, 1000, 100, 0.001).largest_radius == pytest.approx(0.6158, abs=1e-4)


def test_counts_do_not_depend_on_batches_or_neighbours(batch):
    images, _ = batch
    model = five_layers(2).eval()
    labels = model(images).argmax(1)
    shared = {"sigma": 0.2, "samples": 130, "selection_samples": 30}
    whole = smooth(model, images, labels, **shared)
    for batch_size in (1, 64, 1000):
        assert smooth(model, images, labels, batch_size=batch_size, **shared) == whole
    assert smooth(model, images[:5], labels[:5], **shared).radius == whole.radius[:5]
    assert smooth(model, images, labels, seed=1, **shared).radius != whole.radius


def test_the_noise_has_its_size_is_not_clipped_and_differs_between_streams():
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.stack((x.flatten(1)[:, 0], 1 - x.flatten(1)[:, 0]), 1)

    images = torch.full((11, 1, 8, 8), 0.9)
    smooth(Watch(), images, torch.zeros(11).long(), sigma=0.5, samples=80, selection_samples=50, batch_size=200)
    checks = 2 * 11 + 1  # without noise, twice, and at an image of nothing but noise
    noisy = torch.cat(seen)[checks:]
    assert len(noisy) == 11 * 130
    delta = noisy - 0.9
    assert float(delta.std()) == pytest.approx(0.5, rel=0.03)
    assert float(delta.mean()) == pytest.approx(0, abs=0.02)
    assert noisy.max() > 1.5
    assert len(noisy.unique(dim=0)) == len(noisy), (
        "selection and estimation look at different noise, and so do examples"
    )


def test_wrong_and_withheld_answers_have_no_radius():
    model, images = linear(classes=2), inner_images(12)
    labels = model(images).argmax(1)
    labels[:4] = 1 - labels[:4]
    found = smooth(model, images, labels, sigma=0.2, samples=300)
    assert found.wrong + found.abstained == sum(radius == 0 for radius in found.radius)
    assert found.wrong >= 2
    assert not any(found.correct[:4])
    assert [p is None for p in found.prediction].count(True) == found.abstained
    plain = found.to_dict()
    assert plain["norm"] == "l2"
    assert plain["curve"]["accuracy"][0] == pytest.approx(sum(radius > 0 for radius in found.radius) / 12)
    unsure = smooth(model, images, labels, sigma=50.0, samples=300)
    assert unsure.abstained >= 10
    assert unsure.accuracy(0.0) <= 2 / 12


def test_finished_portions_are_taken_up(batch, tmp_path):
    images, labels = batch
    model = five_layers(2).eval()
    first = smooth(model, images, labels, samples=100, folder=tmp_path)
    calls = []
    with_hook = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    assert smooth(model, images, labels, samples=100, folder=tmp_path) == first
    assert sum(calls) < 40
    with_hook.remove()


def test_the_model_is_left_as_found(batch):
    model = five_layers(2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smooth(model, *batch, samples=20)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"samples": 0}, "samples"),
        ({"selection_samples": 0}, "samples"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"samples": 9}, "at least 10 samples"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(batch, settings, message):
    with pytest.raises(InputError, match=message):
        smooth(five_layers(2), *batch, **settings)


def test_logits_that_break_under_noise_are_told(batch):
    class Fragile(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10].sqrt()

    with pytest.raises(InputError, match="under noise"):
        smooth(Fragile(), *batch, samples=20)
