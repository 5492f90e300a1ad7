"""Damaged and hostile files end in success or an error of the family, under every parser."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import TARGETS, Bench

INPUTS = int(os.environ.get("KDIGA_FUZZ_INPUTS", "12"))
HEAVY = {
    "run.state": 5,
    "result.study": 6,
    "result.certificate": 2,
    "result.explanation": 2,
    "result.evaluation": 3,
    "claims records": 2,
    "yaml.claims": 3,
    "data.folder": 3,
}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    """Every target's files are made once."""
    made: dict[str, Bench] = {}

    def bench(name):
        if name not in made:
            made[name] = Bench(TARGETS[name], tmp_path_factory.mktemp("bench"))
        return made[name]

    return bench


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name, benches):
    bench, outcomes = benches(name), set()
    inputs = max(2, INPUTS // HEAVY.get(name, 1)) if INPUTS < 100 else INPUTS

    @settings(
        max_examples=inputs, derandomize=INPUTS < 100, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32))
    def one(seed):
        outcomes.add(bench.try_one(Random(f"{name} {seed}")))

    one()
    assert outcomes - {"read"} or inputs < 12, "nothing was refused, so nothing was damaged"
