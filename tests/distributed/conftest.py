"""Two processes are started once for all tests of this folder: that takes longer than what they do."""

from __future__ import annotations

import pytest

from tests.distributed.runs import everything, plain
from tests.distributed.work import together
from tests.teachers.conftest import Filler


@pytest.fixture(scope="session")
def by_two(stripes, tmp_path_factory):
    """What two processes found, by rank, and the folder in which they worked."""
    folder = tmp_path_factory.mktemp("two")
    Filler(plain(2), stripes, augment="none").fill(folder / "store")
    return together(everything, folder, folder, stripes), folder
