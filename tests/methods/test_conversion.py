"""The author's convention against ours: the conversion that the docs state."""

from __future__ import annotations

import pytest
import torch

from kdiga.errors import InputError
from kdiga.methods.kdiga import KDIGA, _author_gap, per_example_weight

BATCH = 128


def test_equal_gaps_make_the_two_equal():
    """gamma 10 at a batch of 128 and gaps of 0.2: 1.38e-3, as computed by hand."""
    ours = torch.zeros(BATCH, 1, 2, 2, dtype=torch.float64)
    theirs = torch.full_like(ours, 0.1)  # every gap has length 0.2
    author = 10 * _author_gap(ours, theirs)
    per_example = per_example_weight(10, BATCH) * (ours - theirs).flatten(1).norm(dim=1).mean()
    assert author.item() == pytest.approx(per_example.item(), rel=1e-12)
    assert author.item() == pytest.approx(1.38e-3, rel=2e-3)


def test_unequal_gaps_make_ours_the_smaller():
    ours, theirs = torch.rand(2, BATCH, 1, 2, 2, dtype=torch.float64)
    lengths = (ours - theirs).flatten(1).norm(dim=1)
    author = 10 * _author_gap(ours, theirs)
    assert author.item() == pytest.approx(per_example_weight(10, BATCH) * lengths.square().mean().sqrt().item())
    assert per_example_weight(10, BATCH) * lengths.mean() < author


def test_squared_weight_has_the_same_derivative():
    ours = torch.rand(BATCH, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    theirs = torch.rand(BATCH, 1, 2, 2, dtype=torch.float64)
    (author,) = torch.autograd.grad(10 * _author_gap(ours, theirs), ours)
    squares = (ours - theirs).flatten(1).square().sum(1)
    weight = per_example_weight(10, BATCH) / (2 * squares.mean().sqrt().detach())
    (squared,) = torch.autograd.grad(weight * squares.mean(), ours)
    assert torch.allclose(author, squared, rtol=1e-9)


def test_keeping_gamma_while_doubling_the_batch_weakens_it():
    ours, theirs = torch.rand(2, BATCH, 1, 2, 2, dtype=torch.float64)
    twice = _author_gap(torch.cat([ours, ours]), torch.cat([theirs, theirs]))
    assert (_author_gap(ours, theirs) / twice).item() == pytest.approx(2**1.5)


def test_the_authors_convention_knows_one_distance():
    with pytest.raises(InputError, match="author's convention"):
        KDIGA(convention="author", distance="cosine")
    with pytest.raises(InputError, match="did you mean author"):
        KDIGA(convention="autor")
    with pytest.raises(InputError, match="did you mean dual"):
        KDIGA(distance="duall")
