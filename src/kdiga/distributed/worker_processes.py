"""Worker processes of this machine, as an executor of Python's ``concurrent.futures``."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

from kdiga.distributed.launch import follow_parent
from kdiga.errors import KdigaError, reason_of


class WorkerLostError(BrokenExecutor):
    """A worker process ended before its call did."""


class WorkersEndedError(KdigaError, RuntimeError):
    """Every worker ended before its work did."""

    exit_status = 1


class LocalExecutor(ThreadPoolExecutor):
    """Spawned processes of this machine, each the worker of one thread.

    Unlike those of :class:`concurrent.futures.ProcessPoolExecutor`, a process that is killed takes only its own call
    with it: the call raises :class:`WorkerLostError`, and the next call starts another process. Leaving a ``with``
    block ends the calls that are going on.

    Args:
        workers: Number of processes.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._workers = dict[int, tuple[BaseProcess, Any]]()  # process and connection, by thread
        self._closing = False
        self._starting = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a picklable function in the next process that is free."""
        return super().submit(self._call, (fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes once their calls are done; with ``cancel_futures`` at once, by SIGTERM."""
        if cancel_futures:
            with self._starting:
                self._closing = True
                for process, _ in self._workers.values():
                    process.terminate()
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process, connection in self._workers.values() if wait else ():
            connection.close()
            process.join()

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)

    def _call(self, call: tuple[Any, ...]) -> Any:
        thread, process = threading.get_ident(), None
        try:
            process, connection = self._workers.get(thread) or self._start(thread)
            connection.send(call)
            result, error = connection.recv()
        except (EOFError, OSError) as lost:
            if process is None:
                raise WorkerLostError(f"it could not start: {reason_of(lost)}") from None
            process.join()
            with self._starting:
                del self._workers[thread]
            raise WorkerLostError(f"exit status {process.exitcode}") from None
        if error is not None:
            raise error
        return result

    def _start(self, thread: int) -> tuple[BaseProcess, Any]:
        context = multiprocessing.get_context("spawn")
        with self._starting:
            if self._closing:
                raise EOFError
            ours, workers = context.Pipe()
            process = context.Process(target=_work, args=(workers,), daemon=True)
            process.start()
            workers.close()
            self._workers[thread] = process, ours
        return process, ours


def _work(connection: Any) -> None:
    """Answer calls with a result and an error, one of them None, until the parent closes the connection."""
    follow_parent()
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*args, **kwargs), None
        except Exception as error:
            answer = None, error
        connection.send(answer)
