"""What every attack must satisfy: in the ball, in [0, 1], never worse than its start, example by example."""

from __future__ import annotations

import copy

import pytest
import torch

from kdiga.attacks import PGD, project
from kdiga.errors import InputError
from kdiga.losses import cross_entropy
from kdiga.methods.context import StepContext, StepModels, StepSettings
from kdiga.model_state import seeded
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers

THREATS = [ThreatModel("linf", 0.1), ThreatModel("linf", 0.0), ThreatModel("l2", 0.7), ThreatModel("l2", 30.0)]
STARTS = ["uniform", "near", "clean"]


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("keep_best", [False, True])
def test_stays_in_the_ball_and_in_range(threat, start, steps, keep_best, batch):
    images, labels = batch
    images = images.round(decimals=0)  # every pixel at a corner of [0, 1], where clipping bites
    model = five_layers(1).eval()
    attack = PGD(threat=threat, steps=steps, start=start, keep_best=keep_best)
    adv_images = attack(lambda x: cross_entropy(model(x), labels), images)
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1
    length = (adv_images - images).flatten(1).norm(torch.inf if threat.norm == "linf" else 2, dim=1)
    assert (length <= threat.eps * (1 + 1e-5) + 1e-6).all()
    assert not adv_images.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_keeping_the_best_never_lowers_the_objective(norm, batch):
    images, labels = batch
    model = five_layers(1).eval()

    def objective(x):
        return cross_entropy(model(x), labels)

    before = objective(images)
    after = objective(PGD(threat=ThreatModel(norm, 0.2), steps=7, start="clean", keep_best=True)(objective, images))
    assert (after >= before - 1e-6).all()
    assert after.sum() > before.sum()


def test_a_batch_equals_its_examples_one_by_one(batch):
    images, labels = batch
    model = five_layers(1).eval()
    attack = PGD(threat=ThreatModel("linf", 0.1), steps=4, start="clean")
    together = attack(lambda x: cross_entropy(model(x), labels), images)
    for row in range(len(images)):
        alone = attack(lambda x, row=row: cross_entropy(model(x), labels[row : row + 1]), images[row : row + 1])
        assert torch.allclose(alone, together[row : row + 1], atol=1e-6)


def test_one_step_is_fgsm(batch):
    images, labels = batch
    model = five_layers(1).eval()
    gradient = torch.autograd.grad(cross_entropy(model(images.requires_grad_()), labels).sum(), images)[0]
    expected = (images + 0.1 * gradient.sign()).clamp(0, 1)
    found = PGD(threat=ThreatModel("linf", 0.1), steps=1, start="clean")(
        lambda x: cross_entropy(model(x), labels), images
    )
    assert torch.allclose(found, expected)


def test_steps_follow_the_formula(batch):
    """Three steps written out, for both norms."""
    images, labels = batch
    model = five_layers(1).eval().double()
    images = images.double()
    for threat in (ThreatModel("linf", 0.1), ThreatModel("l2", 0.5)):
        x = images.clone()
        for _ in range(3):
            x = x.detach().requires_grad_()
            cross_entropy(model(x), labels).sum().backward()
            g = x.grad
            if threat.norm == "linf":
                x = torch.max(torch.min(x.detach() + 0.04 * g.sign(), images + 0.1), images - 0.1)
            else:
                x = x.detach() + 0.04 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                delta = x - images
                length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                x = images + delta * (0.5 / length).clamp(max=1)
            x = x.clamp(0, 1)
        attack = PGD(threat=threat, steps=3, step_size=0.04, start="clean")
        assert torch.allclose(attack(lambda i: cross_entropy(model(i), labels), images), x, atol=1e-10)


def test_a_step_leaves_the_student_as_found(batch):
    images, labels = batch
    student = five_layers(1).train()
    student[4].eval()
    before, modes = copy.deepcopy(student.state_dict()), [module.training for module in student.modules()]
    settings = StepSettings(ThreatModel("linf", 0.1))
    step = StepContext(Batch(images, labels, torch.arange(12)), StepModels(student), settings)
    with seeded(1):
        step.attack(lambda x: cross_entropy(student(x), labels), steps=3)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_projection_is_the_identity_inside():
    images = torch.full((2, 1, 2, 2), 0.5)
    near = images + 0.01
    for norm in ("linf", "l2"):
        assert torch.allclose(project(near, images, ThreatModel(norm, 0.1)), near)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps was 0"),
        ({"steps": 2.5}, "whole number"),
        ({"step_size": 0.3}, "Did you swap the two"),
        ({"step_size": -1.0}, "must be above 0"),
        ({"start": "center"}, "start 'center'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PGD(threat=ThreatModel("linf", 0.1), **options)


def test_large_steps_are_allowed_by_name(batch):
    attack = PGD(threat=ThreatModel("linf", 0.1), steps=2, step_size=0.3, allow_large_steps=True)
    adv_images = attack(lambda images: images.flatten(1).sum(1), batch[0])
    assert float((adv_images - batch[0]).abs().max()) <= 0.1 + 1e-6


def test_settings_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        PGD(ThreatModel("linf", 0.1), 10)


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", 8, r"Did you mean 8/255"),
        ("l3", 0.1, "norm 'l3'"),
        ("l2", -1, "at least 0"),
        ("l2", float("inf"), "finite"),
    ],
)
def test_bad_threat_models_are_refused(norm, eps, message):
    with pytest.raises(InputError, match=message):
        ThreatModel(norm, eps)


def test_threat_model_reads_fractions_and_any_case():
    assert ThreatModel.parse("LINF", "8/255") == ThreatModel("linf", 8 / 255)
    with pytest.raises(InputError, match="8/255"):
        ThreatModel.parse("linf", "eight")


def test_the_best_image_is_the_one_without_a_number():
    def objective(images):
        total = images.flatten(1).sum(1)
        return torch.where(total > 0.05, torch.nan, total)

    adv_images = PGD(threat=ThreatModel("linf", 0.1), steps=4, start="clean", keep_best=True)(
        objective, torch.zeros(2, 1, 1, 1)
    )
    assert objective(adv_images).isnan().all()
