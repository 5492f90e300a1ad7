"""Bounds are of real numbers: what exact fractions give lies inside, where float64 alone would be off."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from kdiga.certification.class_scores import other_classes
from kdiga.certification.interval import lipschitz_bounds
from kdiga.certification.interval_network import trace_network
from kdiga.certification.interval_propagation import (
    UNIT,
    IntervalTensor,
    bound_gradients,
    bound_margins,
    bound_values,
    largest_dual_norms,
    rounding_allowance,
)
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.certification.nets import radii_in

SEEDS = range(25)


def chain(seed: int, weights: float = 1e3, biases: float = 1e9) -> nn.Module:
    """Two layers of large numbers of either sign, whose sums cancel."""
    with seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Linear(3, 3)).double()
        with torch.no_grad():
            for layer in (model[1], model[2]):
                layer.weight.copy_(torch.randn(layer.weight.shape, dtype=torch.float64) * weights)
                layer.bias.copy_(torch.randn(layer.bias.shape, dtype=torch.float64) * biases)
    return model


def exactly(layer: nn.Linear) -> tuple[list[list[Fraction]], list[Fraction]]:
    return [[Fraction(v) for v in row] for row in layer.weight.tolist()], [Fraction(v) for v in layer.bias.tolist()]


def times(weight, values, bias):
    return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


@pytest.mark.parametrize(("weights", "biases"), [(1e3, 1e9), (1e9, 1e-3), (1e9, None)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_values_and_margins(norm, weights, biases):
    """Large biases, large weights, and both, the first layer's such that next to nothing is left of its sum."""
    wrong = 0
    for seed in SEEDS:
        model = chain(seed, weights, biases or 1.0)
        with seeded(seed, 1):
            image, label = torch.rand(1, 1, 1, 2, dtype=torch.float64), torch.tensor([seed % 3])
        if biases is None:
            with torch.no_grad():
                model[1].bias.sub_(model[1].weight @ image.flatten())
        network = trace_network(model, image[0])
        bounds = bound_values(network, image, torch.zeros(1, dtype=torch.float64), norm)
        hidden = times(*reversed_last(exactly(model[1]), [Fraction(v) for v in image.flatten().tolist()]))
        box = bounds.intervals[-1]
        for value, center, radius in zip(hidden, box.center[0].tolist(), box.radius[0].tolist(), strict=True):
            assert abs(value - Fraction(center)) <= Fraction(radius)
            assert Fraction(radius) <= Fraction(1, 10**4)
            wrong += value != Fraction(center)
        logits = times(*reversed_last(exactly(model[2]), hidden))
        lows = bound_margins(network, bounds, label)[0].tolist()
        for low, other in zip(lows, other_classes(label, 3)[0].tolist(), strict=True):
            margin = logits[int(label)] - logits[other]
            assert Fraction(low) <= margin
            assert margin - Fraction(low) <= Fraction(weights) * Fraction(1, 10**4), "and not far below"
    assert wrong > 20, "or nothing was rounded"


def reversed_last(layer, values):
    weight, bias = layer
    return weight, values, bias


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_and_their_norms(norm):
    ball = ThreatModel(norm, 0.0)
    for seed in SEEDS:
        models, label = (chain(seed), chain(seed + 100)), torch.tensor([seed % 3])
        image = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
        networks = [trace_network(model, image[0]) for model in models]
        bounds = lipschitz_bounds(*networks, image, label, ball)
        others, slopes = other_classes(label, 3)[0].tolist(), []
        for model, network in zip(models, networks, strict=True):
            first, last = exactly(model[1])[0], exactly(model[2])[0]
            box = bound_gradients(network, bound_values(network, image, radii_in(ball, image), norm), label)
            slopes.append([])
            for row, other in enumerate(others):
                rows = [a - b for a, b in zip(last[int(label)], last[other], strict=True)]
                exact = [sum(r * first[k][pixel] for k, r in enumerate(rows)) for pixel in range(2)]
                slopes[-1].append(exact)
                centers, radii = box.center[row].flatten().tolist(), box.radius[row].flatten().tolist()
                for value, center, radius in zip(exact, centers, radii, strict=True):
                    assert abs(value - Fraction(center)) <= Fraction(radius)
        gaps = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(*slopes, strict=True)]
        for bound, rows in zip(bounds, (*slopes, gaps), strict=True):
            for most, exact in zip(bound[0].tolist(), rows, strict=True):
                size = sum(abs(v) for v in exact) if norm == "linf" else sum(v * v for v in exact)
                found = Fraction(most) if norm == "linf" else Fraction(most) ** 2
                assert size <= found <= size * (1 + Fraction(1, 10**6))


def test_a_norm_is_never_below_the_exact_one():
    with seeded(1):
        rows = torch.randn(200, 7, dtype=torch.float64)
    for norm in ("linf", "l2"):
        found = largest_dual_norms(IntervalTensor(rows, torch.zeros_like(rows)), norm).tolist()
        for row, length in zip(rows.tolist(), found, strict=True):
            parts = [abs(Fraction(v)) for v in row]
            exact = sum(parts) if norm == "linf" else sum(part * part for part in parts)
            assert exact <= (Fraction(length) if norm == "linf" else Fraction(length) ** 2)


def test_boxes_between_two_ends_hold_both():
    with seeded(2):
        low = torch.randn(2000, dtype=torch.float64) * 10.0 ** torch.randint(-8, 8, (2000,))
        high = low + torch.rand(2000, dtype=torch.float64) * low.abs()
    box = IntervalTensor.between(low, high)
    for a, b, center, radius in zip(low.tolist(), high.tolist(), box.center.tolist(), box.radius.tolist(), strict=True):
        assert Fraction(center) - Fraction(radius) <= Fraction(a)
        assert Fraction(b) <= Fraction(center) + Fraction(radius)
        assert radius <= (b - a) / 2 + 1e-14 * (abs(a) + abs(b))
    crossed = IntervalTensor.between(
        torch.tensor([1.0 + 1e-15], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    )
    assert 0 <= float(crossed.radius) < 1e-14


def test_the_allowance_is_more_than_any_order_of_adding_up_needs():
    """A sum of n products is off by at most (n + 2) u of the sum of their sizes."""
    for terms in (1, 10, 1000):
        assert (terms + 2) * 2.0**-53 < rounding_allowance(terms) < 30 * terms * 2.0**-53
    assert torch.finfo(torch.float64).eps == UNIT
