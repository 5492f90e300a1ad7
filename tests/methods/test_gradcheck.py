"""Derivatives of the alignment terms by the parameters, against differences of their values, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.gradients.routes import Exact
from kdiga.methods import available_methods
from kdiga.methods.context import StepContext, StepModels, StepSettings
from kdiga.methods.fast_at import mean_angle
from kdiga.methods.kdiga import _author_gap
from kdiga.model_state import seeded
from kdiga.training.teacher_sources import teacher_source
from kdiga.types import Batch, ThreatModel

CASES = {
    "kdiga": ("kdiga", {"distance": "l2"}),
    "kdiga-squared": ("kdiga", {"distance": "l2-squared"}),
    "kdiga-dual": ("kdiga", {"distance": "dual"}),
    "kdiga-cosine": ("kdiga", {"distance": "cosine"}),
    "kdiga-probability": ("kdiga", {"gradient_of": "probability"}),
    "kdiga-logit": ("kdiga", {"gradient_of": "logit"}),
    "kdiga-author": ("kdiga", {"convention": "author", "gradient_weight": 100.0}),
    "igam": ("igam", {}),
    "tangent": ("tangent", {}),
    "gradalign": ("fast-at", {"start": "clean", "gradalign_weight": 1.0}),
}


class Net(nn.Module):
    """Smooth, of two layers; the first is what derivatives are taken by."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix.detach()) if not matrix.requires_grad else None
        self.given = matrix
        with seeded(4):
            self.last = torch.randn(5, 3, dtype=torch.float64)

    def forward(self, images):
        return torch.tanh(images.flatten(1) @ self.given.T) @ self.last


@pytest.mark.parametrize("case", CASES)
def test_terms(case):
    name, options = CASES[case]
    method = available_methods()[name](**options)
    needs = method.needs
    with seeded(7):
        images, labels = 0.3 + 0.4 * torch.rand(4, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
        weight, other = (0.5 * torch.randn(5, 9, dtype=torch.float64) for _ in range(2))

    def term(matrix):
        step = StepContext(
            Batch(images, labels, torch.arange(4)),
            StepModels(Net(matrix), teacher_source(Net(other), needs, first=True)),
            StepSettings(ThreatModel("linf", 0.05), Exact(), needs.student_gradient, needs.gradient_of),
        )
        with seeded(1):
            return method(step).total()

    assert torch.autograd.gradcheck(term, (weight.requires_grad_(),), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("distance", [_author_gap, mean_angle])
def test_second_derivatives_of_the_distances(distance):
    a, b = (torch.randn(3, 1, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(distance, (a, b))
    assert torch.autograd.gradgradcheck(distance, (a, b))


def test_author_gap_is_smooth_where_gradients_agree():
    """Their norm has no derivative there; ours is zero."""
    a = torch.randn(3, 1, 2, 2, requires_grad=True)
    gap = _author_gap(a, a.detach().clone())
    gap.backward()
    assert gap.item() == 0
    assert not a.grad.any()


def test_mean_angle_leaves_zero_gradients_out():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    b = torch.tensor([[0.0, 3.0], [1.0, 1.0], [0.0, 1.0]])
    angle = mean_angle(a, b)
    angle.backward()
    assert angle.item() == pytest.approx(0.5)  # 1 and 0, the second row left out
    assert not a.grad[1].any()
    assert mean_angle(torch.zeros(2, 2), b[:2]).item() == 0
