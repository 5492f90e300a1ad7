"""Processes that decode images, started once and kept; or none.

Pixels come back through pipes. So nothing of size is kept in /dev/shm, which containers often make small.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from kdiga.distributed.launch import follow_parent
from kdiga.errors import InputError, KdigaError

T = TypeVar("T")

MOST = 8  # of "auto": more than enough for one GPU, and each holds some tens of megabytes
_POOLS: dict[int, ProcessPoolExecutor] = {}


class DecodersEndedError(KdigaError, RuntimeError):
    """A process that decoded images ended before its work did."""

    exit_status = 1


class Job(Generic[T]):
    """Something that is being computed in another process, or will be in this one when it is asked for.

    Args:
        function: at the top level of a module, so that another process finds it.
        arguments: of the function.
        workers: how many processes there are; with 0 it is computed here.
    """

    def __init__(self, function: Callable[..., T], *arguments: Any, workers: int) -> None:
        self._here = lambda: function(*arguments)
        self._future: Future[T] | None = None
        self._workers = workers
        # What is a daemon, a helper of an evaluation for example, may not have processes of its own.
        if workers and not multiprocessing.current_process().daemon:
            try:
                self._future = _pool(workers).submit(function, *arguments)
            except BrokenProcessPool:
                raise self._ended() from None

    def result(self) -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            DecodersEndedError: if the process was killed.
        """
        if self._future is None:
            return self._here()
        try:
            return self._future.result()
        except BrokenProcessPool:
            raise self._ended() from None

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        if self._future is not None:
            self._future.cancel()

    def _ended(self) -> DecodersEndedError:
        _POOLS.pop(self._workers, None)
        return DecodersEndedError(
            "a process that decodes images ended early; perhaps memory ran out, or the script that starts it lacks "
            "`if __name__ == '__main__':`. Fewer data.workers need less memory, and 0 decodes in the run's own process."
        )


def available_workers() -> int:
    """Return what "auto" means: a process for each processor but one, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST, len(os.sched_getaffinity(0)) - 1)
    return min(MOST, (os.cpu_count() or 1) - 1)


def _pool(workers: int) -> ProcessPoolExecutor:
    if workers not in _POOLS:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that PyTorch's threads hold
        try:
            _POOLS[workers] = ProcessPoolExecutor(workers, context, initializer=follow_parent)
        except (OSError, ImportError, NotImplementedError) as error:
            raise InputError(f"no processes can be started here ({error}); set data.workers to 0.") from None
    return _POOLS[workers]
