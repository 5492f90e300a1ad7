"""Processes that decode images, started once and reused; or none. Results are requested ahead of their use.

Pixels come back through pipes, so nothing large is in /dev/shm, which containers often make small.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from kdiga.distributed.launch import follow_parent
from kdiga.errors import InputError, KdigaError, warn

T = TypeVar("T")
R = TypeVar("R", covariant=True)

MOST = 8  # of "auto": more than enough for one GPU, and each takes some tens of megabytes
AHEAD = 3  # results that are requested ahead of their use
_POOLS: dict[int, ProcessPoolExecutor] = {}


class DecodersEndedError(KdigaError, RuntimeError):
    """A process that decoded images ended before its work did."""

    exit_status = 1


class Pending(Protocol[R]):
    """Something that is being computed."""

    def result(self) -> R:
        """Wait for the result and return it."""
        ...

    def cancel(self) -> None:
        """Cancel the computation if it has not started."""
        ...


def ahead(begin: Iterable[Pending[R]], depth: int = AHEAD) -> Iterator[R]:
    """Yield results in their order, with ``depth`` computations started; those that are not used are cancelled."""
    waiting, coming = deque[Pending[R]](), iter(begin)
    try:
        waiting.extend(itertools.islice(coming, depth))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(itertools.islice(coming, 1))
    finally:
        for one in waiting:
            one.cancel()


class Job(Generic[T]):
    """A function call in another process, or in this one on request where there are no others.

    Args:
        function: Function at the top level of a module, so that another process can import it.
        arguments: Arguments of the function.
        workers: Number of processes; with 0 the call runs here.
    """

    def __init__(self, function: Callable[..., T], *arguments: Any, workers: int) -> None:
        self._here = lambda: function(*arguments)
        self._future: Future[T] | None = None
        self._workers = workers
        # A daemon process, a helper of an evaluation for example, may not have child processes.
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
        """Cancel the call if it has not started."""
        if self._future is not None:
            self._future.cancel()

    def _ended(self) -> DecodersEndedError:
        _POOLS.pop(self._workers, None)
        return DecodersEndedError(
            "a process that decodes images ended early; perhaps memory ran out, or the script that starts it lacks "
            "`if __name__ == '__main__':`. Fewer data.workers need less memory, and 0 decodes in the run's own process."
        )


def available_workers() -> int:
    """Return the number of processes for "auto": one for each processor but one, at most 8.

    Warns:
        KdigaWarning: If no process can start, so that the images are decoded in this one.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(0, min(MOST, processors - 1))
    if workers and (obstacle := obstacle_to_workers()) is not None:
        warn(f"images are decoded in this process, because {obstacle}. Set workers=0 to avoid this warning.")
        return 0
    return workers


def obstacle_to_workers() -> str | None:
    """Return why no process can be started from the running script, as a clause; None if one can.

    A started process imports the script again. Without a guard it would do all of its work again, and fail.
    """
    main = sys.modules.get("__main__")
    path, name = getattr(main, "__file__", None), getattr(getattr(main, "__spec__", None), "name", "")
    if path is None or name.endswith("__main__"):  # an interactive session, or `python -m package`
        return None
    if not Path(path).exists():
        return f"processes cannot import the script from {path}; save it as a file"
    try:
        guarded = "__main__" in Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return None if guarded else f"the script {Path(path).name} has no line `if __name__ == '__main__':` above its work"


def _pool(workers: int) -> ProcessPoolExecutor:
    if workers not in _POOLS:
        if (obstacle := obstacle_to_workers()) is not None:
            raise InputError(f"workers was {workers}, and {obstacle}; or set workers to 0.")
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that PyTorch's threads hold
        try:
            _POOLS[workers] = ProcessPoolExecutor(workers, context, initializer=follow_parent)
        except (OSError, ImportError, NotImplementedError) as error:
            raise InputError(f"no processes can be started here ({error}); set data.workers to 0.") from None
    return _POOLS[workers]
