"""Damaged and hostile files end in success or an error of the family, under every parser."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import TARGETS
from tests.fuzz.reader import Reader

INPUTS = int(os.environ.get("KDIGA_FUZZ_INPUTS", "12"))
HEAVY = {"run.state": 5}


@pytest.fixture(scope="module")
def reader():
    """What takes all memory, or never ends, takes this process and not that of the tests."""
    with Reader() as made:
        yield made


# Not those that another test plants to be reported.
@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("planted.")])
def test_damaged_files_are_read_or_refused(name, reader):
    outcomes = set[str]()
    inputs = max(2, INPUTS // HEAVY.get(name, 1)) if INPUTS < 100 else INPUTS

    @settings(
        max_examples=inputs,
        derandomize=INPUTS < 100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def one(number):
        ((_, outcome),) = reader.read(name, number, number + 1)
        assert not outcome.where, outcome
        outcomes.add(outcome.told)

    one()
    assert outcomes - {"read"} or inputs < 12, "nothing was refused, so nothing was damaged"
