"""From measured counts to verdicts, with the measurements made up; and measurements on models known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.evaluation.masking import CHECKS, check_masking
from kdiga.evaluation.masking.check_context import DifferentiableModel
from kdiga.evaluation.masking.gradient_attacks import CheckPGD
from kdiga.types import ThreatModel
from tests.evaluation.masking.planted import Around

THREAT = ThreatModel("linf", 0.1)
COUNT = 100


class FirstPixels(nn.Module):
    """Three classes, whose logits are the first three pixels times given weights."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = torch.tensor(weights)

    def forward(self, images):
        return images.flatten(1)[:, :3] * self.weights


@pytest.fixture
def images():
    """All of class 0 by a margin of at least 0.3, no pixel near 0 or 1."""
    images = torch.rand(COUNT, 1, 5, 5, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.2
    images[:, 0, 0, 0] += 0.4
    return images


def made(name, model, images, *, threat=THREAT, **options):
    only = [check for check in CHECKS if check.name == name]
    model = model.eval()
    labels = torch.zeros(len(images), dtype=torch.long)
    (finding,) = check_masking(model, images, labels, threat=threat, seed=0, checks=only, **options)
    return finding


def fooling(monkeypatch, numbers):
    """Let each attack fool the examples in a range of its own."""

    def fooled(self, context, among=None):
        found = torch.zeros(len(context.labels), dtype=torch.bool)
        found[slice(*numbers[(self.objective, self.steps)])] = True
        return found

    monkeypatch.setattr(CheckPGD, "fooled", fooled)


@pytest.mark.parametrize(
    ("ranges", "verdict"),
    [
        ([(0, 20), (0, 20), (0, 20), (0, 20)], "passed"),
        ([(0, 10), (0, 20), (0, 30), (0, 32)], "passed"),
        ([(0, 10), (0, 20), (0, 30), (0, 33)], "warning"),
        ([(0, 20), (5, 26), (5, 26), (5, 26)], "passed"),  # 5 lost, 6 won
        ([(0, 20), (11, 20), (11, 20), (11, 20)], "failed"),  # 11 lost, none won
        ([(0, 6), (1, 6), (1, 6), (1, 6)], "passed"),  # 1 lost
        ([(0, 20), (0, 20), (0, 20), (11, 20)], "failed"),
        ([(0, 20), (20, 37), (20, 37), (20, 37)], "passed"),  # 20 lost and 17 won: chance
        ([(0, 20), (3, 20), (6, 20), (10, 20)], "failed"),  # little by little
        ([(0, 3), (0, 20), (0, 20), (0, 8)], "failed"),  # rises at the end, though 1 step is worse
    ],
)
def test_more_steps(ranges, verdict, monkeypatch, images):
    fooling(monkeypatch, {("ce", steps): found for steps, found in zip((1, 10, 40, 100), ranges, strict=True)})
    finding = made("more-steps", FirstPixels(1.0, 1.0, 1.0), images)
    assert finding.verdict == verdict
    assert finding.evidence["accuracy"] == pytest.approx([1 - (end - start) / COUNT for start, end in ranges])


@pytest.mark.parametrize(
    ("plain", "scaled", "weight", "verdict"),
    [
        ((0, 50), (0, 50), 1.0, "passed"),
        ((0, 50), (0, 57), 1.0, "failed"),
        ((0, 50), (0, 56), 1.0, "passed"),
        ((7, 50), (0, 43), 1.0, "passed"),  # as many the other way round
        ((0, 50), (0, 50), 1e3, "warning"),  # saturated, but nothing is hidden
    ],
)
def test_saturation(plain, scaled, weight, verdict, monkeypatch, images):
    fooling(monkeypatch, {("ce", 40): plain, ("scaled-ce", 40): scaled})
    finding = made("saturation", FirstPixels(weight, weight, weight), images)
    assert finding.verdict == verdict
    assert finding.evidence["saturated"] == (COUNT if weight > 1 else 0)


@pytest.mark.parametrize(("weight", "hides"), [(1.0, False), (1e4, True)])
def test_dividing_by_the_margin_finds_what_large_logits_hide(weight, hides, images):
    """At eps 0.31 every image falls, as its margin is at most 0.6; those that the start fools are never hidden."""
    finding = made("saturation", FirstPixels(weight, weight, weight), images, threat=ThreatModel("linf", 0.31))
    assert (finding.evidence["only_scaled"] > COUNT / 2) == hides
    assert finding.evidence["only_scaled"] == 0 or hides
    assert finding.evidence["only_plain"] == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e4])
def test_a_linear_gradient_keeps_its_promise_exactly(norm, weight, images):
    model = FirstPixels(weight, weight, weight)
    finding = made("true-gradient", model, images, threat=ThreatModel(norm, 0.1))
    assert finding.evidence["judged"] == COUNT
    assert finding.evidence["median_kept"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "failed"), (0.5, "failed"), (0.03, "warning"), (0.02, "passed")])
def test_the_share_without_a_gradient_is_counted(share, verdict, images):
    """Where the last pixel is 0 the gradient is cut."""
    images[: int(share * COUNT), 0, 4, 4] = 0

    def cut(given):
        return torch.where(given[:, :, 4:, 4:] == 0, given.detach(), given)

    model = Around(FirstPixels(1.0, 1.0, 1.0), before=cut)
    finding = made("flat-loss", model, images)
    assert finding.evidence["vanished"] == finding.evidence["exactly_zero"] == int(share * COUNT)
    assert finding.evidence["constant"] == 0
    assert finding.verdict == verdict


def test_a_pixel_at_the_end_of_its_range_is_not_held_to_its_gradient(images):
    """A step that would leave [0, 1] is not taken, so nothing is promised for it."""
    images[:, 0, 0, 1:3] = 1.0
    images[:, 0, 0, 0] = 0.0
    labels = torch.ones(COUNT, dtype=torch.long)
    only = [check for check in CHECKS if check.name == "true-gradient"]
    model = Around(FirstPixels(1.0, 1.0 + 1e-3, 1.0), before=lambda x: x + (x.clamp(0, 1) - x).detach())
    (finding,) = check_masking(model, images, labels, threat=THREAT, seed=0, checks=only)
    assert finding.verdict == "passed", finding
    assert finding.evidence["median_kept"] == pytest.approx(1, abs=0.02)


def test_the_curve_over_eps_of_a_linear_model(images):
    """An image stands at eps where its margin is above 2 eps."""
    finding = made("large-eps", FirstPixels(1.0, 1.0, 1.0), images)
    pixels = images.flatten(1)[:, :3]
    margins = pixels[:, 0] - pixels[:, 1:].amax(1)
    expected = [float((margins > 2 * eps).float().mean()) for eps in finding.evidence["eps"]]
    assert 0 < expected[1] < 1
    assert finding.evidence["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert finding.evidence["eps"] == pytest.approx([0.1 ** (1 - place / 4) for place in range(5)])


def test_a_gradient_of_nan_becomes_none_and_a_missing_one_zero():
    images = torch.tensor([[0.0, 0.25], [0.25, 0.25]]).requires_grad_()
    model = DifferentiableModel(nn.Identity())
    (gradient,) = torch.autograd.grad(model(images.sqrt() ** 2).sum(), images)
    assert gradient[0].isnan().any()  # of the square root itself
    (gradient,) = torch.autograd.grad(
        DifferentiableModel(Around(nn.Identity(), lambda x: x.sqrt() ** 2))(images).sum(), images
    )
    assert gradient[0, 0] == 0
    assert gradient[1] == pytest.approx([1.0, 1.0])
    (gradient,) = torch.autograd.grad(
        DifferentiableModel(Around(nn.Identity(), lambda x: x.detach()))(images).sum(), images
    )
    assert torch.equal(gradient, torch.zeros_like(images))


def test_a_randomised_model_in_train_mode_is_not_said_to_change_with_it(images):
    model = Around(FirstPixels(1.0, 1.0, 1.0), after=lambda z: z + torch.rand_like(z))
    model.training = True
    only = [check for check in CHECKS if check.name == "eval-mode"]
    labels = torch.zeros(COUNT, dtype=torch.long)
    (finding,) = check_masking(model, images, labels, threat=THREAT, seed=0, checks=only)
    assert finding.verdict == "warning"


def test_one_class_for_all_is_remarked_on(images):
    labels = torch.arange(COUNT) % 2
    only = [check for check in CHECKS if check.name == "uses-input"]
    (finding,) = check_masking(FirstPixels(1.0, 1.0, 1.0).eval(), images, labels, threat=THREAT, seed=0, checks=only)
    assert (finding.verdict, finding.evidence["predicted_classes"]) == ("warning", 1)


def test_train_mode_without_an_effect_is_a_warning(images):
    model = FirstPixels(1.0, 1.0, 1.0)
    assert model.training
    only = [check for check in CHECKS if check.name == "eval-mode"]
    labels = torch.zeros(COUNT, dtype=torch.long)
    (finding,) = check_masking(model, images, labels, threat=THREAT, seed=0, checks=only)
    assert (finding.verdict, finding.evidence["training"]) == ("warning", 1)


@pytest.mark.parametrize(("gap", "verdict"), [(1e-5, "passed"), (2e-3, "warning"), (0.1, "failed")])
def test_how_much_of_a_batch_may_show(gap, verdict, images):
    """Rounding differs between batch sizes, on a GPU by up to a thousandth."""
    model = Around(FirstPixels(1.0, 1.0, 1.0), after=lambda z: z * (1 + gap * (len(z) == 1)))
    assert made("batch-independent", model, images).verdict == verdict


@pytest.mark.parametrize(("gap", "verdict"), [(1e-6, "passed"), (1e-2, "failed")])
def test_how_random_a_model_may_be(gap, verdict, images):
    model = Around(FirstPixels(1.0, 1.0, 1.0), after=lambda z: z + gap * torch.rand_like(z))
    assert made("deterministic", model, images).verdict == verdict


@pytest.mark.parametrize(("type_of_model", "type_of_images"), [(torch.float32, torch.float64), (torch.bfloat16, None)])
def test_rounding_is_that_of_the_coarser_type(type_of_model, type_of_images, images):
    """Logits have the type of the images, which says nothing of how they were computed."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).to(type_of_model)
    resolution = torch.finfo(type_of_model).eps
    images = images.to(type_of_images)
    logits = torch.zeros(1, 3).to(images)
    assert DifferentiableModel(network).resolution(logits) == resolution
    alone = Around(network, after=lambda z: z * (1 + 0.5 * resolution**0.5 * (len(z) == 1)))
    assert made("batch-independent", alone, images).verdict == "passed"
    assert made("true-gradient", network, images).verdict in ("passed", "skipped")
