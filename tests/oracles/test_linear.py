"""A linear classifier of two classes has everything in closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kdiga
from kdiga.attacks import PGD, steepest
from kdiga.losses import cross_entropy
from kdiga.methods.context import StepContext, StepModels, StepSettings
from kdiga.methods.tangent import Tangent
from kdiga.model_state import seeded
from kdiga.teachers import OnlineTeacher
from kdiga.types import Batch, ThreatModel


def linear(seed: int, classes: int = 2, pixels: int = 9) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()


def inner_images(count: int = 7) -> torch.Tensor:
    """Images far enough from 0 and 1 that no attack of eps 0.1 is clipped."""
    with seeded(11):
        return 0.3 + 0.4 * torch.rand(count, 1, 3, 3, dtype=torch.float64)


def test_input_gradient_is_the_weight_difference_times_the_wrong_probability():
    model, images, labels = linear(1), inner_images(), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    weight = model[1].weight.detach()
    probabilities = model(images).softmax(1).detach()
    for row, label in enumerate(labels.tolist()):
        other = 1 - label
        expected = probabilities[row, other] * (weight[other] - weight[label])
        found = kdiga.input_gradient(model, images, labels)[row].flatten()
        assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_pgd_finds_the_worst_image(norm, dual):
    """The loss of a linear classifier is worst where the margin has lost eps times the dual norm of the weights."""
    model, images, labels = linear(1), inner_images(), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    difference = model[1].weight[1] - model[1].weight[0]
    margin = (model(images)[:, 0] - model(images)[:, 1]) * (1 - 2 * labels)
    worst = nn.functional.softplus(-(margin - 0.1 * difference.norm(dual)))
    with seeded(0):
        adv_images = PGD(threat=ThreatModel(norm, 0.1), steps=60)(lambda x: cross_entropy(model(x), labels), images)
    assert torch.allclose(cross_entropy(model(adv_images), labels), worst, atol=1e-5)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_robust_accuracy_is_the_share_of_margins_beyond_reach(norm, dual):
    model = linear(1).float()
    with seeded(12):
        images = 0.3 + 0.4 * torch.rand(200, 1, 3, 3)
    labels = model(images).argmax(1)
    difference = model[1].weight[1] - model[1].weight[0]
    margin = (model(images)[:, 0] - model(images)[:, 1]).abs()
    expected = float((margin > 0.1 * difference.norm(dual)).float().mean())
    report = kdiga.evaluate(model, [(images, labels)], eps=0.1, norm=norm, attacks=["clean", "pgd-20"])
    assert report["clean"] == 1.0
    assert report["pgd-20"] == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_tangent_gap_of_a_linear_loss_is_eps_times_the_dual_norm(norm, dual):
    """Where the student's loss is linear in the image, gap = eps * ||g_s - g_t||_q exactly.

    The loss of a model whose label has all the probability mass to lose is linear: with logits far
    apart and the label the losing class, cross-entropy is the logit difference to machine precision.
    """
    student, teacher, images = linear(1), linear(2), inner_images()
    with torch.no_grad():
        student[1].bias.copy_(torch.tensor([60.0, 0.0]))
    labels = torch.ones(len(images), dtype=torch.long)
    threat = ThreatModel(norm, 0.1)
    batch = Batch(images, labels, torch.arange(len(images)))
    models = StepModels(student, OnlineTeacher(teacher, True))
    step = StepContext(batch, models, StepSettings(threat, gradient="value"))
    gap = Tangent()(step).terms[-1].value
    gradient_gap = kdiga.input_gradient(student, images, labels) - kdiga.input_gradient(teacher, images, labels)
    assert gap.item() == pytest.approx(0.1 * gradient_gap.flatten(1).norm(dual, dim=1).mean().item(), rel=1e-9)


def test_steepest_has_the_dual_norm_as_inner_product():
    with seeded(4):
        direction = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", torch.inf)):
        delta = steepest(direction, ThreatModel(norm, 0.3))
        inner = (delta * direction).flatten(1).sum(1)
        assert torch.allclose(inner, 0.3 * direction.flatten(1).norm(dual, dim=1))


def test_identical_models_are_aligned():
    model, images = linear(3, classes=4).float(), inner_images().float()
    teacher = copy.deepcopy(model)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    for distance in ("l2", "l2-squared", "l1", "cosine"):
        term = kdiga.align(model, teacher, images, labels, distance=distance)
        assert term.item() == pytest.approx(0, abs=1e-6)
        model.zero_grad()
        term.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
