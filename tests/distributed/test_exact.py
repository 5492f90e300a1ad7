"""Two processes, each with half of every batch, end where one with the whole batch does: every method, every route.

In float64, to 1e-9 of the largest number of a tensor, with batch norm in eval mode, or shared in train mode.
"""

from __future__ import annotations

import pytest
import torch

from tests.distributed.work import OTHER_WAYS, alone, configurations

TOLERANCE = 1e-9
LOOSER = {"float32": 1e-4, "bf16": 2e-2}  # rounding of sums in another order


def compare(one, outcomes, tolerance):
    for two in outcomes:
        assert isinstance(two, dict), two
        for ours, theirs in zip(one["states"], two["states"], strict=True):
            for name, value in ours.items():
                scale = max(float(value.abs().max()), 1e-3)
                assert float((value - theirs[name]).abs().max()) <= tolerance * scale, name
        for ours, theirs in zip(one["terms"], two["terms"], strict=True):
            assert ours == pytest.approx(theirs, rel=max(tolerance, 1e-9) * 10, abs=1e-9)
        assert one["memory"].keys() == two["memory"].keys()
        close = max(10 * tolerance, 1e-6)
        for name, value in one["memory"].items():
            if name != "first":
                torch.testing.assert_close(
                    torch.as_tensor(two["memory"][name]), torch.as_tensor(value), rtol=close, atol=close
                )


@pytest.mark.parametrize(("variant", "route", "norm"), configurations())
def test_two_processes_are_one(variant, route, norm, by_two):
    compare(alone(variant, route, norm), [one[variant, route, norm] for one in by_two[0]], TOLERANCE)


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_in_other_ways(name, by_two):
    one, options = OTHER_WAYS[name]
    whole = {key: value for key, value in options.items() if key not in ("accumulate", "sync_batch_norm")}
    compare(alone(*one, **whole), [two[name] for two in by_two[0]], LOOSER.get(name, TOLERANCE))


def test_processes_hold_the_same(by_two):
    first, second = by_two[0]
    for configuration in [*configurations(), *OTHER_WAYS]:
        for ours, theirs in zip(first[configuration]["states"], second[configuration]["states"], strict=True):
            assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
