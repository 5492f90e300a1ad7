"""Parsers that are broken on purpose: each shows that the driver reports a kind of defect. Not fuzzed otherwise."""

from __future__ import annotations

import collections
import itertools
import os
import re
import time
from pathlib import Path

import numpy as np

from kdiga.errors import InputError
from tests.fuzz.mutations import damaged_bytes
from tests.fuzz.target import TARGETS, Target

VALID = b"valid"


def _plant(name: str, read: object) -> None:
    def on_damage(folder: Path) -> None:
        if (folder / "x").read_bytes() != VALID:
            read()

    TARGETS[f"planted.{name}"] = Target(
        f"planted.{name}", lambda folder: (folder / "x").write_bytes(VALID) and None, {"x": damaged_bytes}, on_damage
    )


def grow() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 20))


def grow_and_catch() -> None:
    try:
        grow()
    except MemoryError:
        raise InputError("the file cannot be read; make it again.") from None


def grow_a_little() -> None:
    np.ones(100 << 20, np.uint8)  # more than is allowed, and far from the end


def believe() -> None:
    try:
        np.empty(1 << 45, np.uint8)
    except MemoryError:
        raise InputError("the file cannot be read; make it again.") from None


def loop() -> None:
    while True:
        try:
            int("x")
        except Exception:
            continue


def backtrack() -> None:
    re.match(r"(a+)+b", "a" * 60)


def loop_in_c() -> None:
    collections.deque(itertools.repeat(0), maxlen=0)


def wait() -> None:
    time.sleep(10_000)


def end() -> None:
    os.abort()


def misread() -> None:
    raise AssertionError("another value than was written")


for one in (grow, grow_and_catch, grow_a_little, believe, loop, backtrack, loop_in_c, wait, end, misread):
    _plant(one.__name__, one)
