"""Losses against sums written out."""

from __future__ import annotations

import math

import pytest
import torch

from kdiga import losses
from kdiga.errors import InputError


def test_kl_is_summed_over_classes_with_the_target_first():
    student, teacher, temperature = torch.randn(3, 5), torch.randn(3, 5), 4.0
    for row, value in enumerate(losses.kl(student, teacher, temperature).tolist()):
        p = (teacher[row] / temperature).softmax(0).tolist()
        q = (student[row] / temperature).softmax(0).tolist()
        expected = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert value == pytest.approx(expected, rel=1e-4)


def test_kl_of_equal_logits_is_zero_with_a_zero_derivative():
    logits = torch.randn(4, 6, requires_grad=True)
    value = losses.kl(logits, logits.detach()).sum()
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_half_precision_logits_are_compared_in_full_precision():
    logits = torch.randn(4, 6).bfloat16()
    assert losses.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).dtype == torch.float32


@pytest.mark.parametrize("name", losses.DISTANCES)
def test_distance_has_a_finite_second_derivative_at_no_gap(name):
    a = torch.rand(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    value = losses.DISTANCES[name](a, a.detach()).sum()
    (first,) = torch.autograd.grad(value, a, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), a, allow_unused=True)
    assert torch.isfinite(first).all()
    assert second is None or torch.isfinite(second).all()


def test_cosine_falls_as_gradients_agree_and_ignores_zero_gradients():
    target = torch.tensor([[1.0, 0.0]])
    at = [losses.cosine(torch.tensor([[math.cos(t), math.sin(t)]]), target).item() for t in (3.1, 2.0, 1.0, 0.1)]
    assert at == sorted(at, reverse=True)
    zero = torch.zeros(1, 2, requires_grad=True)
    value = losses.cosine(zero, target)
    value.sum().backward()
    assert value.item() == 0
    assert zero.grad.abs().max() == 0


def test_gradgradcheck():
    a = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 2, 2, dtype=torch.float64)
    for name in ("l2", "l2-squared", "cosine"):
        assert torch.autograd.gradgradcheck(lambda x, name=name: losses.DISTANCES[name](x, b), (a,))


def test_unknown_distance():
    with pytest.raises(InputError, match="did you mean cosine"):
        losses.distance_by_name("cosin")


def test_margin_is_the_runner_up_less_the_true_logit():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0], [4.0, 4.0, 1.0]], requires_grad=True)
    values = losses.margin(logits, torch.tensor([0, 2, 1]))
    assert values.tolist() == [-1.0, 6.0, 0.0]
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient.tolist() == [[-1, 0, 1], [0, 1, -1], [1, -1, 0]]
