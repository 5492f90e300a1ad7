"""L1: projection against bisection, attacks on a linear model against the worst image in closed form, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kdiga
from kdiga.attacks import project, uniform_start
from kdiga.attacks.balls import within
from kdiga.errors import InputError
from kdiga.evaluation.autoattack import autoattack_stage
from kdiga.evaluation.masking import CHECKS, check_masking
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.evaluation.masking.planted import small

THREAT = ThreatModel("l1", 3.0)


def bisected(adv_images, images, eps):
    """The nearest image in the ball and in [0, 1]: each pixel moves by clip(|delta| - shift, 0, room)."""
    delta = (adv_images - images).double()
    room = torch.where(delta > 0, 1 - images.double(), images.double())
    low, high = (torch.full((len(images), 1, 1, 1), value).double() for value in (0.0, 10.0))
    moved = torch.minimum(delta.abs(), room)
    fits = moved.flatten(1).sum(1) <= eps
    for _ in range(60):
        middle = (low + high) / 2
        inside = torch.minimum((delta.abs() - middle).clamp_min(0), room).sum((1, 2, 3), keepdim=True) <= eps
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    shrunk = torch.minimum((delta.abs() - high).clamp_min(0), room)
    return images + delta.sign() * torch.where(fits[:, None, None, None], moved, shrunk)


@pytest.mark.parametrize("size", [0.01, 0.3, 3.0])
def test_projection_equals_bisection(size):
    with seeded(5):
        images = torch.rand(20, 3, 4, 4).round(decimals=1)  # some pixels are 0 or 1
        moved = images + size * torch.randn_like(images)
    found = project(moved, images, THREAT)
    assert torch.allclose(found.double(), bisected(moved, images, THREAT.eps).double(), atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_random_start_is_uniform_in_the_ball():
    """Of the L1 ball in 4 dimensions, 0.5 ** 4 is in the ball of half the radius."""
    images = torch.full((4000, 1, 2, 2), 0.5)
    with seeded(1):
        found = (uniform_start(images, ThreatModel("l1", 0.4)) - images).flatten(1)
    lengths = found.abs().sum(1)
    assert lengths.max() <= 0.4 + 1e-6
    assert float((lengths < 0.2).float().mean()) == pytest.approx(1 / 16, abs=0.012)
    assert found.mean(0).abs().max() < 0.01


@pytest.fixture(scope="module")
def linear():
    """A model of four classes on 8x8 images, of which the first two compete, and images that it labels itself."""
    with seeded(3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
        images = torch.rand(24, 1, 8, 8)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, 0.0, -50.0, -50.0]))
    return model, images, model(images).argmax(1)


def closed_form(model, images, labels, eps):
    """Whether each image can be fooled: eps goes to the pixels of the largest weights, each up to 0 or 1."""
    weight, fooled = model[1].weight.detach(), []
    for image, label in zip(images.flatten(1), labels.tolist(), strict=True):
        direction = weight[1 - label] - weight[label]
        rest, gain = eps, 0.0
        for pixel in direction.abs().argsort(descending=True).tolist():
            room = float(1 - image[pixel] if direction[pixel] > 0 else image[pixel])
            gain, rest = gain + min(room, rest) * abs(float(direction[pixel])), rest - min(room, rest)
        logits = model(image[None])[0].detach()
        fooled.append(float(logits[label] - logits[1 - label]) < gain)
    return torch.tensor(fooled)


def test_attacks_on_a_linear_model_find_the_worst_image(linear):
    model, images, labels = linear
    fooled = closed_form(model, images, labels, 2.0)
    expected = 1 - float(fooled.float().mean())
    assert 0.1 < expected < 0.6
    attacks = ["clean", "fgsm", "pgd-40"]
    found = kdiga.evaluate(model, [(images, labels)], threat="l1 2", attacks=attacks)
    assert [found[name] for name in attacks] == pytest.approx([1.0, expected, expected])
    assert found.worst_class("pgd-40").accuracy <= expected
    for stage in ("apgd-ce", "fab-t"):  # of the official AutoAttack; Square takes too long here
        official = autoattack_stage(stage).attack(model, images, labels, ThreatModel("l1", 2.0), 0)
        assert torch.equal(~official.correct, fooled)
        assert within(official.adv_images, images, ThreatModel("l1", 2.0)).all()


def test_a_smaller_step_is_spread_over_more_pixels():
    """On 1,000 pixels a step of 1 moves ten of them by 0.1, and passes over those at the end of their range."""
    images = torch.full((1, 10, 10, 10), 0.5)
    images[0, :2] = 1.0
    weights = torch.arange(1000.0, 0.0, -1.0).view_as(images)
    pgd = kdiga.PGD(threat=ThreatModel("l1", 5.0), steps=2, step_size=0.5, start="clean")
    moved = (pgd(lambda x: (x * weights).flatten(1).sum(1), images) - images).flatten()
    assert moved[200:210].tolist() == pytest.approx([0.1] * 10, abs=1e-6)
    assert float(moved.abs().sum()) == pytest.approx(1.0, abs=1e-5)


def test_what_is_not_defined_refuses_in_one_line():
    model, images, labels = small(0).eval(), torch.rand(4, 1, 8, 8), torch.arange(4)
    data = [(images, labels)]
    calls = [
        lambda: kdiga.distill(small(1), model, data, threat="l1 1", method="kd", epochs=1),
        lambda: kdiga.Distiller(small(1), model, method="kd", threat="l1 1", total_steps=1),
        lambda: kdiga.certify(model, data, threat="l1 1", methods=["smoothing"]),
        lambda: kdiga.suitable(model, data, threat="l1 1"),
        lambda: kdiga.explain(model, small(1), data, threat="l1 1"),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"^the norm was 'l1', which only evaluation accepts; [^\n]+\.$"):
            call()
    findings = check_masking(model, images, labels, threat=THREAT, seed=0)
    skipped = {finding.name for finding in findings if "not defined under L1" in finding.message}
    assert skipped == {check.name for check in CHECKS if check.attacks}
