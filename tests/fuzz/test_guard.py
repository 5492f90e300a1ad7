"""A parser that takes all memory, never ends or ends the process is reported, and the next input is read."""

from __future__ import annotations

import resource
import signal

import numpy as np
import pytest

from kdiga.errors import InputError
from tests.fuzz.guard import GreedError, HangError, Limits, guarded, within
from tests.fuzz.planted import loop
from tests.fuzz.reader import Reader

LIMITS = Limits(seconds=1, wait=20, peak=50 << 20, room=300 << 20)
# by the name of the parser, what its defect is called
PLANTED = {
    "grow": "GreedError",
    "grow_and_catch": "GreedError",
    "grow_a_little": "GreedError",
    "believe": "GreedError",
    "loop": "HangError",
    "backtrack": "HangError",
    "loop_in_c": "ended by SIGXCPU",
    "end": "ended by SIGABRT",
    "misread": "AssertionError",
}


def for_ever():
    while True:
        pass


@pytest.fixture(scope="module")
def reader():
    with Reader(("tests.fuzz.planted",), LIMITS) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_broken_parser_is_reported(reader, name):
    for _, outcome in reader.read(f"planted.{name}", 0, 1 if "loop" in name else 2):
        assert outcome.where.startswith(PLANTED[name]), outcome
        assert not outcome.told
        assert name != "loop_in_c" or "planted.py" in outcome.about, "where it was is told"


def test_a_parser_that_waits_is_reported():
    with Reader(("tests.fuzz.planted",), Limits(seconds=1, wait=2)) as reader:
        ((_, outcome),) = reader.read("planted.wait", 0, 1)
    assert outcome.where.startswith("HangError")
    assert "waited" in outcome.about


def test_valid_files_that_are_not_read_are_no_outcome(reader):
    with pytest.raises(RuntimeError, match="valid files"):
        list(reader.read("planted.none", 0, 1))


def test_the_limits_are_gone_after_the_input():
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)
    with pytest.raises(GreedError), guarded(LIMITS):
        bytearray(1 << 40)
    with pytest.raises(HangError), guarded(LIMITS):
        for_ever()
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
    assert np.empty(1 << 30, np.uint8).nbytes == 1 << 30  # more than there was room for


def test_a_hidden_lack_of_memory_is_seen():
    def refuse():
        try:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
        except RuntimeError:
            raise InputError("it cannot be read") from None

    with pytest.raises(GreedError), guarded(LIMITS):
        refuse()
    with pytest.raises(InputError), guarded(LIMITS):
        raise InputError("it cannot be read")


def test_a_hang_is_no_exception_that_a_parser_catches():
    with pytest.raises(HangError), within(0.2):
        loop()
