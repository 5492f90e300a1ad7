"""Cosine and distance of gradients that are known."""

from __future__ import annotations

import math

import pytest
import torch

from kdiga.analysis import cosines, gradient_distance
from kdiga.types import ThreatModel


def images(*rows):
    return torch.tensor(rows).view(len(rows), 1, 1, -1)


def test_cosines_by_hand():
    found = cosines(
        images([1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [1.0, 2.0]), images([3.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [2.0, -1.0])
    )
    assert found == pytest.approx((1.0, 1 / math.sqrt(2), -1.0, 0.0))


def test_a_zero_gradient_has_no_direction_on_either_side():
    found = cosines(images([0.0, 0.0], [1.0, 1.0], [1.0, 1.0]), images([1.0, 1.0], [0.0, 0.0], [1.0, 1.0]))
    assert found[:2] == (None, None)
    assert found[2] == pytest.approx(1.0)


def test_tiny_gradients_have_a_direction_too():
    assert cosines(images([1e-30, 1e-30]), images([1e-30, 0.0])) == pytest.approx((1 / math.sqrt(2),))


@pytest.mark.parametrize(("norm", "expected"), [("linf", 7.0), ("l2", 5.0)])
def test_distance_is_in_the_dual_norm(norm, expected):
    found = gradient_distance(images([4.0, -1.0]), images([1.0, 3.0]), ThreatModel(norm, 0.1))
    assert found.tolist() == pytest.approx([expected])
