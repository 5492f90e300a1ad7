"""A quadratic network by hand: input gradient, alignment term and its derivative by the parameters."""

from __future__ import annotations

import torch
from torch import nn

import kdiga
from kdiga.gradients.routes import FiniteDifference
from kdiga.model_state import seeded


class Quadratic(nn.Module):
    """Logits ``(sum_k a_k x_k**2, 0)``: the loss of class 1 is ``softplus(a . x**2)``."""

    def __init__(self, a: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a.clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = (images.flatten(1) ** 2) @ self.a
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def by_hand(a: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input gradient (example, pixel) and its derivative by a (example, pixel, parameter)."""
    x = images.flatten(1)
    sigmoid = torch.sigmoid((x**2) @ a)
    gradient = sigmoid[:, None] * 2 * a * x
    slope = (sigmoid * (1 - sigmoid))[:, None, None] * (2 * a * x)[:, :, None] * (x**2)[:, None, :]
    slope = slope + torch.diag_embed(sigmoid[:, None] * 2 * x)
    return gradient, slope


def setting():
    with seeded(21):
        student, teacher = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
        images = torch.rand(6, 1, 2, 2, dtype=torch.float64)
    return Quadratic(student), Quadratic(teacher), images, torch.ones(6, dtype=torch.long)


def expected_derivative(student, teacher, images):
    g_s, slope = by_hand(student.a.detach(), images)
    g_t, _ = by_hand(teacher.a.detach(), images)
    direction = (g_s - g_t) / (g_s - g_t).norm(dim=1, keepdim=True) / len(images)
    return torch.einsum("ip,ipk->k", direction, slope), (g_s - g_t).norm(dim=1).mean()


def test_input_gradient():
    student, _, images, labels = setting()
    expected, _ = by_hand(student.a.detach(), images)
    assert torch.allclose(kdiga.input_gradient(student, images, labels).flatten(1), expected, atol=1e-12)


def test_exact_alignment_and_its_derivative():
    student, teacher, images, labels = setting()
    derivative, value = expected_derivative(student, teacher, images)
    term = kdiga.align(student, teacher, images, labels)
    term.backward()
    assert torch.allclose(term, value, atol=1e-12)
    assert torch.allclose(student.a.grad, derivative, atol=1e-10)


def test_finite_difference_alignment_and_its_derivative():
    student, teacher, images, labels = setting()
    derivative, value = expected_derivative(student, teacher, images)
    term = kdiga.align(student, teacher, images, labels, route=FiniteDifference(probe=1e-4))
    term.backward()
    assert torch.allclose(term, value, atol=1e-12)
    assert torch.allclose(student.a.grad, derivative, rtol=1e-5, atol=1e-7)
