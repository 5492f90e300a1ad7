"""Processes that a test starts beside itself, and waiting for what they do, which ends whatever happens.

They are spawned: a fork copies the locks that threads of PyTorch, of pytest or of an earlier test hold at that moment.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Start ``target``, a function of a module, in another process; it is killed when this one ends."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    return process


def until(condition: Callable[[], Any], process: BaseProcess, seconds: float = 120) -> None:
    """Wait until ``condition()`` holds.

    Raises:
        AssertionError: if the process ended before, or ``seconds`` have passed.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() or condition(), f"the other process ended with status {process.exitcode}"
        assert time.monotonic() < deadline, f"the other process did not come so far in {seconds} s"
        time.sleep(0.01)


def ended(process: BaseProcess, seconds: float = 120) -> int:
    """Return the exit status of a process that is about to end.

    Raises:
        AssertionError: if it has not ended within ``seconds``.
    """
    process.join(seconds)
    assert process.exitcode is not None, f"the other process has not ended in {seconds} s"
    return process.exitcode
