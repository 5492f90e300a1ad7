"""RayS against distances in closed form, and what it may see of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.evaluation.masking.rays import shortest_rays
from tests.evaluation.masking.planted import Around


@pytest.fixture
def images():
    """Far from 0 and 1, so that no ray is clipped before it fools."""
    return 0.5 + 0.1 * (torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2)) - 0.5)


class Linear(nn.Module):
    """Two classes, whose logits differ by an affine function of the pixels."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights, self.bias, self.seen = weights, bias, 0

    def forward(self, images):
        self.seen += len(images)
        difference = images.flatten(1) @ self.weights + self.bias
        return torch.stack([difference, -difference], 1)


def linear(images, *, equal):
    weights = torch.randn(64, generator=torch.Generator().manual_seed(0))
    weights = weights.sign() if equal else weights
    return Linear(weights, 0.03 * weights.abs().sum() - 0.5 * weights.sum())


@pytest.mark.parametrize(("norm", "dual"), [(torch.inf, 1), (2, 2)])
def test_distances_to_a_plane(norm, dual, images):
    """A distance is |w x + b| over the dual norm of w; in L2 a ray of signs is the shortest if weights are equal."""
    model = linear(images, equal=norm == 2)
    labels = model(images).argmax(1)
    ends = shortest_rays(model, images, labels, queries=2000)
    assert (model(ends).argmax(1) != labels).all()
    found = torch.linalg.vector_norm((ends - images).flatten(1), norm, dim=1)
    exact = (images.flatten(1) @ model.weights + model.bias).abs() / torch.linalg.vector_norm(model.weights, dual)
    assert (found >= exact * (1 - 1e-4)).all()
    assert found.tolist() == pytest.approx(exact.tolist(), rel=0.06)


def test_only_the_predicted_class_is_used(images):
    model = linear(images, equal=False)
    labels = model(images).argmax(1)
    hard = Around(model, after=lambda z: nn.functional.one_hot(z.argmax(1), 2) * torch.rand(len(z), 1).add(0.1))
    first, second = (shortest_rays(one, images, labels, queries=200) for one in (model, hard))
    assert torch.equal(first, second)
    assert not torch.equal(first, images)


def test_queries_are_bounded_and_the_search_stops_where_it_may(images):
    model = linear(images, equal=False)
    labels = model(images).argmax(1)
    model.seen = 0
    shortest_rays(model, images, labels, queries=100)
    assert 80 * len(images) < model.seen <= 100 * len(images)
    model.seen = 0
    shortest_rays(model, images, labels, queries=100, enough=lambda ends, given: torch.ones(len(ends)).bool())
    assert model.seen < 30 * len(images)
