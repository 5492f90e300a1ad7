"""Where runs are made: executors of Python's ``concurrent.futures``, on this machine or on a cluster.

``local`` starts worker processes here. ``dask``, ``dask:ADDRESS`` and ``slurm:KEY=VALUE,...`` hand runs to what a
cluster has; they need an extra of kdiga, and kdiga and the experiment's folder under the same path on every machine.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kdiga.distributed.launch import follow_parent
from kdiga.errors import InputError, reason_of, unknown

LOCAL = "local"
LOG_FOLDER = ".slurm"  # below the experiment's, for the files of submitit
SLURM_POLL = 1.0  # seconds
COMMON_SLURM = ("cluster", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")


@dataclass(frozen=True)
class ExecutorRequest:
    """Where runs are made, and how many at a time.

    Args:
        name: "local", "dask", "dask:ADDRESS" or "slurm:KEY=VALUE,..."
        workers: Runs at a time; None for one a core on this machine, and for all that are ready on a cluster.

    Raises:
        InputError: For an unknown executor, or options that it does not have.
    """

    name: str = LOCAL
    workers: int | None = None

    def __post_init__(self) -> None:
        kind, _, options = self.name.partition(":")
        if kind not in (LOCAL, "dask", "slurm"):
            raise unknown("executor", kind, (LOCAL, "dask", "slurm"))
        if kind == LOCAL and options:
            raise InputError(f"executor was {self.name!r}; local has no options; set --workers N.")
        if kind == "slurm":
            _slurm_options(options)

    @property
    def in_this_process(self) -> bool:
        """Whether runs need no other process."""
        return self.name == LOCAL and self.workers == 1

    @contextmanager
    def opened(self, most: int, out: Path) -> Generator[tuple[Executor, int]]:
        """Start the executor for a block, which gets it with the number of runs at a time.

        Leaving the block ends the runs that are going on; those on this machine save their state first.

        Args:
            most: Number of runs that are left.
            out: Folder of the experiment.

        Raises:
            InputError: If a package is missing, or the cluster refuses the options.
        """
        kind, _, options = self.name.partition(":")
        local = kind == LOCAL or self.name == "dask"
        size = max(1, min(self.workers or (default_workers() if local else most), most))
        if kind == "dask":
            with _dask_executor(options, size) as executor:
                yield executor, size
            return
        executor = LocalExecutor(size) if kind == LOCAL else SlurmExecutor(out / LOG_FOLDER, _slurm_options(options))
        try:
            yield executor, size
        finally:
            executor.shutdown(cancel_futures=True)


HERE = ExecutorRequest(workers=1)


def default_workers() -> int:
    """Return one worker a core."""
    return os.cpu_count() or 1


class WorkerLostError(BrokenExecutor):
    """A worker process ended before its call did."""


class LocalExecutor(Executor):
    """Spawned processes of this machine.

    Unlike those of :class:`concurrent.futures.ProcessPoolExecutor`, a process that is killed takes only its own call
    with it: the call raises :class:`WorkerLostError`, and the next call starts another process.

    Args:
        workers: Number of processes.
    """

    def __init__(self, workers: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Any] | None] = SimpleQueue()
        self._processes = dict[threading.Thread, BaseProcess]()
        self._closing = False
        self._starting = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a picklable function in the next process that is free."""
        future = Future[Any]()
        self._calls.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes once their calls are done; with ``cancel_futures`` at once, by SIGTERM."""
        self._closing = cancel_futures
        for _ in self._threads:
            self._calls.put(None)
        if cancel_futures:
            with self._starting:
                for process in self._processes.values():
                    process.terminate()
        if wait:
            for thread in self._threads:
                thread.join()

    def _serve(self) -> None:
        """Pass calls on to one process, which is replaced when it is lost."""
        worker: tuple[BaseProcess, Any] | None = None
        while (item := self._calls.get()) is not None:
            future, call = item
            if self._closing or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            try:
                worker = worker or self._start()
                worker[1].send(call)
                result, error = worker[1].recv()
            except (EOFError, OSError) as lost:
                future.set_exception(self._lost(worker, lost))
                worker = None
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        if worker is not None:
            worker[1].close()
            worker[0].join()

    def _start(self) -> tuple[BaseProcess, Any]:
        context = multiprocessing.get_context("spawn")
        with self._starting:
            if self._closing:
                raise EOFError
            ours, workers = context.Pipe()
            process = context.Process(target=_work, args=(workers,), daemon=True)
            process.start()
            workers.close()
            self._processes[threading.current_thread()] = process
        return process, ours

    def _lost(self, worker: tuple[BaseProcess, Any] | None, error: Exception) -> WorkerLostError:
        if worker is None:
            return WorkerLostError(f"it could not start: {reason_of(error)}")
        worker[0].join()
        return WorkerLostError(f"exit status {worker[0].exitcode}")


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


@contextmanager
def _dask_executor(address: str, workers: int) -> Generator[Executor]:
    distributed = _module("distributed", "dask")
    try:
        cluster: Any = address or distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            # It serves its state even without a dashboard, by default at a fixed port.
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        )
        client = distributed.Client(cluster)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Dask scheduler {address!r} cannot be reached ({reason_of(error)}); check the address."
        ) from None
    executor = client.get_executor(pure=False)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)
        client.close()
        if not address:
            cluster.close()


class SlurmExecutor(Executor):
    """One Slurm job a call, through submitit.

    Args:
        folder: Folder of submitit's files, which all machines share.
        options: Options of :class:`submitit.AutoExecutor`.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        submitit = _module("submitit", "slurm")
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=options.pop("cluster", "slurm"))
            self._executor.update_parameters(name="kdiga", **options)
        except (NameError, AssertionError, RuntimeError, ValueError) as error:
            raise InputError(f"Slurm cannot be used: {reason_of(error)}. Check the options after 'slurm:'.") from None
        self._jobs = dict[Future[Any], Any]()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a job that calls a picklable function."""
        job, future = self._executor.submit(fn, *args, **kwargs), Future[Any]()
        future.set_running_or_notify_cancel()
        self._jobs[future] = job
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End; with ``cancel_futures`` jobs are cancelled."""
        while wait and not cancel_futures and self._jobs:
            time.sleep(SLURM_POLL)
        self._closed.set()
        self._watcher.join()
        for job in self._jobs.values() if cancel_futures else ():
            job.cancel(check=False)

    def _watch(self) -> None:
        while not self._closed.wait(SLURM_POLL):
            for future, job in list(self._jobs.items()):
                if not job.done():
                    continue
                try:
                    result = job.result()
                except Exception as error:
                    words = str(error).strip().splitlines()
                    future.set_exception(WorkerLostError(words[-1] if words else type(error).__name__))
                else:
                    future.set_result(result)
                del self._jobs[future]


def _slurm_options(text: str) -> dict[str, Any]:
    """Return options as submitit names them: those that only Slurm has start with ``slurm_``."""
    options = dict[str, Any]()
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or not value:
            raise InputError(
                f"executor option was {part!r}; write slurm:KEY=VALUE,..., such as slurm:partition=gpu,time=60."
            )
        name = key if key in COMMON_SLURM or key.startswith("slurm_") else f"slurm_{key}"
        options[name] = int(value) if value.isdigit() else value
    return options


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"executor {extra} needs the package {name}; install it with `pip install 'kdiga[{extra}]'`."
        ) from None
