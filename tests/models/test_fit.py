"""Networks behind images of another size, number of channels or set of classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import kdiga
from kdiga.errors import InputError
from kdiga.gradients.input_gradient import input_gradient
from kdiga.model_state import seeded
from kdiga.models.input_layers import LUMINANCE, Fit
from kdiga.runs.fingerprints import fingerprint_of_model


def network(channels: int = 3, size: int = 8, classes: int = 6) -> kdiga.models.Classifier:
    with seeded(3):
        model = kdiga.load_model("cnn-4", in_channels=channels, image_size=size, num_classes=classes, activation="silu")
    return model.double()


def explicit_resize(size: int, to_size: int) -> torch.Tensor:
    """The resize of one axis as a matrix, column by column."""
    unit = torch.eye(size, dtype=torch.float64)[:, None, :, None].expand(-1, 1, -1, size)
    resized = F.interpolate(unit, (to_size, to_size), mode="bilinear", align_corners=False, antialias=True)
    return resized[:, 0, :, 0].T


@pytest.mark.parametrize(
    ("size", "channels", "to_size", "to_channels"),
    [(12, 3, 8, 3), (5, 3, 8, 3), (8, 1, 8, 3), (8, 3, 8, 1), (12, 1, 8, 3), (6, 3, 8, 1)],
)
def test_gradients_arrive_by_the_adjoint(size, channels, to_size, to_channels):
    """The gradient in the images' pixels is the resize's transposed matrix times that in the network's."""
    model = network(to_channels, to_size)
    other = model.fitted(channels=channels, size=size)
    with seeded(1):
        images, labels = torch.rand(3, channels, size, size, dtype=torch.float64), torch.tensor([0, 4, 2])
    fitted = other.fit(images)
    inner = input_gradient(model, fitted, labels)
    matrix = explicit_resize(size, to_size)
    expected = matrix.T @ inner @ matrix
    if channels < to_channels:
        expected = expected.sum(1, keepdim=True)
    if channels > to_channels:
        expected = expected * torch.tensor(LUMINANCE, dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(input_gradient(other, images, labels), expected, rtol=1e-6, atol=1e-9)
    # <F u, v> = <u, F* v>
    u, v = torch.rand_like(images).requires_grad_(), torch.rand_like(fitted)
    inner_product = (other.fit(u) * v).sum()
    (back,) = torch.autograd.grad(inner_product, u)
    torch.testing.assert_close(inner_product.detach(), (back * u.detach()).sum(), rtol=1e-6, atol=1e-9)


def test_alignment_trains_through_the_resize():
    """Student and teacher of unlike sizes and channels: the double backward pass agrees with a finite difference."""
    student, teacher = network(1, 8).train(), network(3, 12)
    student, teacher = (one.fitted(channels=3, size=10) for one in (student, teacher))
    with seeded(2):
        images, labels = torch.rand(4, 3, 10, 10, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    weight = student.network[0].weight

    def term():
        return kdiga.align(student, teacher, images, labels, distance="l2-squared")

    (gradient,) = torch.autograd.grad(term(), weight)
    step = torch.zeros_like(weight)
    step[1, 0, 1, 2] = 1e-5
    with torch.no_grad():
        weight += step
    ahead = term().detach()
    with torch.no_grad():
        weight -= 2 * step
    behind = term().detach()
    torch.testing.assert_close(gradient[1, 0, 1, 2], (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-10)


def test_classes_pick_outputs_in_their_order():
    model = network()
    other = model.fitted(channels=3, size=8, classes=(4, 1))
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(other(images), model(images)[:, [4, 1]])
    assert other.spec.takes == (3, 8, 2)


def test_a_fitted_model_shares_its_network_and_is_another_function():
    model = network().train()
    other = model.fitted(channels=1, size=16)
    assert other.network is model.network
    assert other.training
    assert fingerprint_of_model(other) != fingerprint_of_model(model)
    assert fingerprint_of_model(model.fitted(channels=3, size=8)) == fingerprint_of_model(model)


def test_a_fitted_student_is_saved_and_loaded(tmp_path):
    model = network().float().eval().fitted(channels=1, size=16, classes=(2, 0))
    kdiga.save_model(model, tmp_path / "m.safetensors")
    again = kdiga.load_model(tmp_path / "m.safetensors")
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(again(images), model(images))
    assert again.spec == model.spec


def test_equal_sizes_cost_nothing():
    images = torch.rand(2, 3, 8, 8)
    assert Fit(8, 3, 8, 3)(images) is images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4, "size": 8}, "images of 4 channels"),
        ({"channels": 3, "size": 8, "classes": (1, 6)}, "outputs"),
        ({"channels": 3, "size": 8, "classes": (1, 1)}, "different numbers"),
        ({"channels": 3, "size": 0}, "input_size"),
    ],
)
def test_bad_fits(options, message):
    with pytest.raises(InputError, match=message):
        network().fitted(**options)
