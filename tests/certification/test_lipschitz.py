"""Gradients of margins at random points: which kernels find them, and that the choice changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.certification import clever, clever_against
from kdiga.certification.lipschitz import POINTS, Sampling, fast_convolutions, largest_norms
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.certification.nets import linear
from tests.certification.test_interval import two_layers

KINDS = {
    "grey": (1, {}, True),
    "eight channels": (8, {"stride": (2, 1), "padding": (0, 1)}, True),
    "nine channels": (9, {}, False),
    "groups": (4, {"groups": 2}, False),
    "dilated": (2, {"dilation": 2}, False),
    "dilated one way": (2, {"dilation": (1, 2)}, False),
    "circular": (2, {"padding": 1, "padding_mode": "circular"}, False),
    "padded by name": (2, {"padding": "same"}, False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_convolution_keeps_its_answers(kind, dtype):
    channels, options, quick = KINDS[kind]
    for out in (4, 12):
        with seeded(1):
            layer = nn.Conv2d(channels, out, 3, **options).to(dtype)
            images = torch.rand(3, channels, 8, 8, dtype=dtype, requires_grad=True)
        before = layer.weight.data
        expected = layer(images)
        (gradient,) = torch.autograd.grad(expected.square().sum(), images)
        with fast_convolutions([nn.Sequential(layer), layer]):
            assert ("forward" in layer.__dict__) == quick
            assert layer.weight.is_contiguous(memory_format=torch.channels_last) or quick
            found = layer(images)
            (again,) = torch.autograd.grad(found.square().sum(), images)
        assert torch.allclose(found, expected, atol=1e-5)
        assert torch.allclose(again, gradient, atol=1e-4)
        assert layer.weight.data.stride() == before.stride()
        assert "forward" not in layer.__dict__


def test_a_forward_of_ones_own_and_a_subclass_are_left_alone():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    own, subclass = nn.Conv2d(1, 2, 3), Doubled(1, 2, 3)
    own.forward = lambda x: x
    half = nn.Conv2d(1, 2, 3).to(torch.bfloat16)
    with fast_convolutions([own, subclass, half]):
        assert own(3) == 3
        assert not {"forward"} & (subclass.__dict__.keys() | half.__dict__.keys())
    assert own(3) == 3


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_of_two_linear_models_the_differences_norm_is_known(norm, dual):
    """The norms of each model and of the difference, for all other classes in order, in every batch."""
    one, two, image = linear(1), linear(2), torch.full((1, 3, 3), 0.5, dtype=torch.float64)
    found = largest_norms([one, two], image, torch.tensor(2), Sampling(ThreatModel(norm, 0.1), 5, 3), 1)
    first, second = one[1].weight.detach(), two[1].weight.detach()
    for norms, weight in zip(found, (first, second, second - first), strict=True):
        expected = torch.stack([torch.linalg.vector_norm(weight[2] - weight[j], ord=dual) for j in (3, 0, 1)])
        assert torch.allclose(norms, expected.expand(5, 3))


def test_points_go_through_the_network_a_few_at_a_time():
    model, sizes = two_layers(1), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    sampling = Sampling(ThreatModel("linf", 0.1), 11, 7)
    image = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    usual = largest_norms([model], image, torch.tensor(0), sampling, 1)
    assert sizes == [POINTS["cpu"], 77 - POINTS["cpu"]]
    sizes.clear()
    few = largest_norms([model], image, torch.tensor(0), sampling, 1, points=30)
    assert sizes == [30, 30, 17]
    assert torch.allclose(usual[0], few[0])
    assert usual[0].shape == (11, 2)


def test_how_many_points_go_together_may_be_chosen():
    model, sizes, images = two_layers(1), [], torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    labels = model(images).argmax(1)
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    shared = {"max_radius": 0.1, "batches": 5, "batch_size": 2, "points": 4}
    clever(model, images, labels, **shared)
    assert sizes == [1, 1, 1, 4, 4, 2]
    sizes.clear()
    clever_against(model, two_layers(2), images, labels, **shared)
    assert sizes == [1, 1, 1, 4, 4, 2]
