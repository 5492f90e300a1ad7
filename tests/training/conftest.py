"""A robust teacher for the tests of this folder."""

from __future__ import annotations

import pytest

import kdiga
from tests.training.test_loop import QUICK, THREAT, small


@pytest.fixture(scope="session")
def robust(stripes):
    """A teacher trained on the spot."""
    teacher = small(2, "cnn-8")
    kdiga.distill(teacher, None, stripes, method="pgd-at", epochs=4, threat=THREAT, **QUICK)
    return teacher
