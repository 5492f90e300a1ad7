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


def test_entropy_shares_and_logits_by_hand():
    """Of the shares 1/6, 2/6, 3/6."""
    logits, labels = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]).log() + 4, torch.tensor([2, 1])
    entropy = math.log(6) / 6 + math.log(3) / 3 + math.log(2) / 2
    assert losses.entropy(logits).tolist() == pytest.approx([entropy] * 2)
    assert losses.true_probability(logits, labels).tolist() == pytest.approx([1 / 2, 1 / 6])
    assert losses.true_logit(logits, labels).tolist() == pytest.approx([4 + math.log(3), 4.0])
    assert losses.cross_entropy(logits, labels).tolist() == pytest.approx([math.log(2), math.log(6)])
    names = {"loss": losses.cross_entropy, "probability": losses.true_probability, "logit": losses.true_logit}
    assert {name: losses.score_by_name(name) for name in names} == names


def test_a_temperature_of_one_is_the_usual_one():
    a, b = torch.randn(4, 5), torch.randn(4, 5)
    assert torch.equal(losses.kl(a, b), losses.kl(a, b, 1.0))
    assert not torch.allclose(losses.kl(a, b), losses.kl(a, b, 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmaxes_of_half_precision_are_taken_in_full(dtype):
    """Differences that 8 bits of a softmax would lose."""
    logits, labels = torch.tensor([[9.0, 0.0, 1.0], [0.5, 6.0, 0.0]], dtype=dtype), torch.tensor([0, 1])
    for found, full in (
        (losses.kl(logits, logits.flip(1)), losses.kl(logits.float(), logits.flip(1).float())),
        (losses.entropy(logits), losses.entropy(logits.float())),
        (losses.true_probability(logits, labels), losses.true_probability(logits.float(), labels)),
        (losses.cross_entropy(logits, labels), losses.cross_entropy(logits.float(), labels)),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, full)
    assert losses.entropy(logits.double()).dtype == torch.float64


def test_distances_by_hand():
    a = torch.tensor([[1.0, -2.0], [0.0, 0.0], [2.0, 2.0]]).view(3, 1, 1, 2)
    b = torch.tensor([[4.0, 2.0], [0.0, 0.0], [-1.0, -1.0]]).view(3, 1, 1, 2)
    assert losses.l2(a, b).tolist() == pytest.approx([5.0, 0.0, math.sqrt(18)])
    assert losses.l2_squared(a, b).tolist() == [25.0, 0.0, 18.0]
    assert losses.l1(a, b).tolist() == [7.0, 0.0, 6.0]
    assert losses.cosine(a, b).tolist() == pytest.approx([1.0, 0.0, 2.0])


def test_one_zero_gradient_has_no_direction_and_one_zero_pixel_does():
    zero, axis, slant = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    for a, b in ((zero, axis), (axis, zero), (zero, zero)):
        assert losses.cosine(a, b).item() == 0
    assert losses.cosine(axis, slant).item() == pytest.approx(1 - math.sqrt(0.5))
    assert losses.cosine(1e-9 * axis, slant).item() == pytest.approx(1 - math.sqrt(0.5)), "small is not zero"
    assert losses.l2(axis, torch.tensor([[1.0, 0.5]])).item() == 0.5


@pytest.mark.parametrize("size", [1e-8, 1e-14, 1e-25, 1e-37, 1e25])
def test_the_cosine_depends_on_directions_alone(size):
    a, b = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    small = (size * a).requires_grad_()
    assert losses.cosine(small, b).tolist() == pytest.approx(losses.cosine(a, b).tolist(), abs=1e-6)
    assert losses.cosine(small, small.detach()).abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(losses.cosine(small, b).sum(), small)
    assert gradient.isfinite().all()


def test_names_of_scores_and_distances():
    with pytest.raises(InputError, match=r"score 'probabilty' is not known; did you mean probability"):
        losses.score_by_name("probabilty")
    with pytest.raises(InputError, match=r"distance 'duel' is not known; did you mean dual"):
        losses.check_distance("duel")
    for name in (*losses.DISTANCES, "dual"):
        losses.check_distance(name)
    assert losses.distance_under("dual", "linf") is losses.l1
    assert losses.distance_under("dual", "l2") is losses.l2
    assert losses.distance_under("cosine", "l2") is losses.cosine
    assert losses.DUAL_ORDER == {"linf": 1, "l2": 2}
