"""Whole runs by two processes: one result, whoever looks; what is each one's own; what is refused."""

from __future__ import annotations

import pytest
import torch

from kdiga.training.validation import Scores
from tests.distributed.runs import alone_scores, plain, run

STEPS = 18


@pytest.fixture(scope="module")
def found(by_two):
    return by_two[0]


def equal(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


def near(one, two):
    return all(torch.allclose(value, two[name], atol=2e-4) for name, value in one.items())


@pytest.fixture(scope="module")
def by_one(stripes):
    return run(plain, stripes, None, ema=0.8)


def test_a_run_of_two_is_a_run_of_one(found, by_one):
    """Order, views, teacher, average, validation and choice of the best: in float32, by 2e-4 after 18 steps."""
    for one in found:
        for which in ("last", "best"):
            assert near(by_one[which], one["whole"][which])
        for ours, theirs in zip(by_one["history"], one["whole"]["history"], strict=True):
            assert ours["terms"] == pytest.approx(theirs["terms"], rel=1e-3)
            assert (ours["clean"], ours["robust"]) == pytest.approx((theirs["clean"], theirs["robust"]), abs=0.03)


def test_every_method_takes_a_student_in_pytorchs_own_wrapper(found):
    for one in found:
        assert len(one["wrapped"]) >= 20
        assert max(one["wrapped"].values()) < 1e-12


def test_both_end_with_the_same(found):
    """Batch norm has each process's own statistics in training, and their mean at the end; losses are the batch's."""
    for name in ("whole", "uninterrupted", "epochs averaged"):
        one, two = (each[name] for each in found)
        assert equal(one["last"], two["last"])
        assert equal(one["best"], two["best"])
        assert one["history"] == two["history"]


def test_validation_is_divided(found, stripes):
    assert isinstance(found[0]["scores"], Scores)
    assert found[0]["scores"] == found[1]["scores"] == alone_scores(stripes)


def test_an_interrupted_run_of_two_ends_bit_equal(found):
    """With batch norm, dropout and an average; stopped by a signal that one of the two hears, then by an error."""
    for each in found:
        assert f"after step 4 of {STEPS}" in each["interrupted"]["told"]
        for which in ("last", "best"):
            assert equal(each["uninterrupted"][which], each["interrupted"][which])
        assert each["uninterrupted"]["history"] == each["interrupted"]["history"]


def test_one_process_goes_on_with_what_two_began(found, by_two, by_one, stripes):
    assert "after step 11" in found[0]["begun"]
    taken = []
    resumed = run(
        plain,
        stripes,
        by_two[1] / "rank-0" / "begun",
        ema=0.8,
        seed=9,
        resume=True,
        on_step=lambda done, total: taken.append(done),
    )
    assert taken == list(range(12, STEPS + 1))
    assert near(by_one["last"], resumed["last"])


def test_only_the_first_process_writes(by_two):
    assert (by_two[1] / "rank-0" / "whole" / "journal.jsonl").is_file()
    assert not (by_two[1] / "rank-1").exists()


def test_draws_inside_a_network_are_each_process_s_own(found):
    (inside, shared, loader), (other_inside, other_shared, other_loader) = (each["own draws"] for each in found)
    assert inside != other_inside
    assert shared != other_shared  # two rows of one draw
    assert loader == other_loader


def test_each_process_reads_its_rows_of_a_stored_teacher(found):
    first, second = ([set(rows) for rows in each["rows"]] for each in found)
    assert len(first) == len(second) >= STEPS // 2
    for one, two in zip(first[-STEPS // 2 :], second[-STEPS // 2 :], strict=True):
        assert len(one) == len(two) == 20
        assert not one & two


def test_what_cannot_be_shared_is_refused(found):
    assert all("cannot be shared equally by 2 processes" in each["refused"] for each in found)
    assert all("has Other layers" in each["named layer"] for each in found)


def test_weights_are_the_first_process_s(found):
    assert equal(found[0]["weights"], found[1]["weights"])
