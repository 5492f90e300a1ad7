"""Local linearity against maxima by hand: nothing for linear scores, eps squared times curvature for quadratic ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdiga.analysis import Expansion, WorstCaseSearch, local_linearity
from kdiga.analysis.worst_case import loss_score
from kdiga.errors import InputError
from kdiga.losses import margin
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

EPS = 0.1
CURVATURES = [  # eigenvalues: positive side larger, negative side larger, one sign only
    torch.tensor([3.0, -1.0, 0.5, -0.2]),
    torch.tensor([1.0, -4.0, 0.5, -0.7]),
    torch.tensor([-2.0, -1.0, -0.5, -0.1]),
]


def inner(count=3, pixels=(1, 2, 2)):
    """Images that no ball of eps 0.1 is clipped at."""
    with seeded(11):
        return 0.3 + 0.4 * torch.rand(count, *pixels)


def gamma_of(score, images, norm, search=None):
    with seeded(3):
        return local_linearity(Expansion.around(images, score), ThreatModel(norm, EPS), search or WorstCaseSearch())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_margin_of_a_linear_model_is_linear(norm):
    with seeded(1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images, labels = inner(), torch.tensor([0, 1, 0])
    gamma, _ = gamma_of(lambda x: margin(model(x), labels), images, norm)
    assert gamma.max() < 1e-6
    saturated = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        saturated[1].bias.copy_(torch.tensor([60.0, 0.0]))
    gamma, _ = gamma_of(loss_score(saturated, torch.ones(3, dtype=torch.long)), images, norm)
    assert gamma.max() < 1e-4  # float32 logits near 60


@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_quadratic_score_by_hand(curvature):
    """f = sum a_i x_i^2: the remainder is sum a_i d_i^2, largest in a corner of the pixels of one sign."""
    images = inner()
    gamma, where = gamma_of(lambda x: (x.flatten(1).square() * curvature).sum(1), images, "linf")
    sides = curvature.clamp_min(0).sum(), -curvature.clamp_max(0).sum()
    assert gamma.tolist() == pytest.approx([EPS**2 * float(max(sides))] * 3, rel=0.01)
    assert ((where - images).abs() <= EPS + 1e-6).all()


@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_rotated_quadratic_score_in_l2(curvature):
    """f = x^T A x: the remainder is d^T A d, at most eps^2 times the eigenvalue of largest size."""
    with seeded(8):
        rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    matrix = rotation @ torch.diag(curvature) @ rotation.T
    images = inner()
    gamma, where = gamma_of(lambda x: ((x.flatten(1) @ matrix) * x.flatten(1)).sum(1), images, "l2")
    assert gamma.tolist() == pytest.approx([EPS**2 * float(curvature.abs().max())] * 3, rel=0.01)
    assert ((where - images).flatten(1).norm(dim=1) <= EPS + 1e-6).all()


def test_the_ball_ends_at_black_and_white():
    """On a black image only brighter pixels are left, on a white one only darker: f = (sum x)^2."""
    for start in (0.0, 1.0):
        images = torch.full((2, 1, 2, 2), start)
        gamma, where = gamma_of(lambda x: x.flatten(1).sum(1).square(), images, "linf")
        assert gamma.tolist() == pytest.approx([(4 * EPS) ** 2] * 2, rel=0.01)
        assert where.min() >= 0
        assert where.max() <= 1


def test_a_slow_search_over_all_corners_finds_no_more():
    """Each pixel of a 2x2 image on a grid of nine values: the search is within a hundredth of the best, or above."""
    with seeded(4):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
        for parameter in model.parameters():
            parameter.data *= 3
    images, labels = inner(2), torch.tensor([1, 2])
    steps = torch.linspace(-EPS, EPS, 9)
    deltas = torch.cartesian_prod(steps, steps, steps, steps).view(-1, 1, 2, 2)
    gamma, _ = gamma_of(loss_score(model, labels), images, "linf")
    for row in range(2):
        own = labels[row].expand(len(deltas))
        score = loss_score(model, own)
        everywhere = images[row : row + 1].expand(len(deltas), -1, -1, -1)
        reference = Expansion.around(everywhere, score).remainder(everywhere + deltas).detach().abs().max()
        assert float(gamma[row]) >= float(reference) * 0.99
        assert float(reference) > 1e-4


def test_at_the_image_itself_there_is_nothing_to_climb():
    """Why starts are random: value and gradient of the remainder are zero at d = 0."""
    images = inner()
    expansion = Expansion.around(images, lambda x: x.flatten(1).square().sum(1))
    inputs = images.clone().requires_grad_()
    values = expansion.remainder(inputs)
    (gradient,) = torch.autograd.grad(values.sum(), inputs)
    assert values.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-6


def test_both_signs_are_searched_from_every_start():
    """f = sum a_i x_i^2 has one basin above zero and a deeper one below: each of 60 single starts must find it."""
    curvature = torch.tensor([1.0, -1.2, 1.0, -1.2])
    images = torch.full((60, 1, 2, 2), 0.5)
    expansion = Expansion.around(images, lambda x: (x.flatten(1).square() * curvature).sum(1))
    threat, once = ThreatModel("linf", EPS), WorstCaseSearch(restarts=1)
    with seeded(0):
        gamma, _ = local_linearity(expansion, threat, once)
        one_ascent, _ = once.largest(lambda x: expansion.remainder(x).abs(), images, threat)
    assert gamma.min() > 2.4 * EPS**2 * 0.99
    assert one_ascent.min() < 2.1 * EPS**2, "an ascent on the absolute value is caught in the other basin"


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"step": 0.5}, {"step": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        WorstCaseSearch(**wrong)


def test_the_gradient_of_a_confident_answer_keeps_its_direction():
    """In float32 the probability of the answer rounds to 1 at a margin of about 17."""
    with seeded(5):
        model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(20, 1, 2, 2)
    model[1].bias.data = torch.tensor([20.0, 0.0, 0.0])
    labels = torch.zeros(20, dtype=torch.int64)
    found = Expansion.around(images, loss_score(model, labels)).gradient
    true = Expansion.around(images.double(), loss_score(copy.deepcopy(model).double(), labels)).gradient
    assert nn.functional.cosine_similarity(found.flatten(1).double(), true.flatten(1), eps=1e-30).min() > 0.999


def test_logits_that_are_not_finite_anywhere_in_the_ball_are_an_error():
    class Cracks(nn.Module):
        def forward(self, images):
            total = images.flatten(1).sum(1)
            return torch.stack([torch.where(total > 2.2, torch.nan, total), 0 * total], 1)

    with pytest.raises(InputError, match="not finite"):
        gamma_of(loss_score(Cracks(), torch.tensor([1])), torch.full((1, 1, 2, 2), 0.5), "linf")


def test_an_input_gradient_that_is_not_finite_is_an_error():
    images = torch.full((1, 1, 2, 2), 0.5)
    with pytest.raises(InputError, match="input gradient of a model is not finite"):
        Expansion.around(images, lambda images: (images - 0.5).flatten(1).square().sum(1).sqrt())
