"""Where runs are made: executors of Python's ``concurrent.futures``, on this machine or on a cluster.

``local`` starts worker processes here. ``dask``, ``dask:ADDRESS`` and ``slurm:KEY=VALUE,...`` hand runs to what a
cluster has; they need an extra of kdiga, and kdiga and the experiment's folder under the same path on every machine.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.distributed.worker_processes import LocalExecutor, WorkerLostError
from kdiga.errors import InputError, check_known, reason_of

LOCAL = "local"
LOG_FOLDER = ".slurm"  # below the experiment's, for the files of submitit
SLURM_POLL = 1.0  # seconds
COMMON_SLURM = ("cluster", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")


@dataclass(frozen=True)
class ExecutorRequest:
    """Where runs are made, and how many at a time."""

    name: str = LOCAL  # "local", "dask", "dask:ADDRESS" or "slurm:KEY=VALUE,..."
    # Runs at a time; None for one a core on this machine, and for all that are ready on a cluster.
    workers: int | None = None

    def __post_init__(self) -> None:
        kind, _, options = self.name.partition(":")
        check_known("executor", kind, (LOCAL, "dask", "slurm"))
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
        """Start the executor for a block, which gets it with the number of runs at a time, of ``most`` that are left.

        Leaving the block ends the runs that are going on; those on this machine save their state first.
        """
        kind, _, options = self.name.partition(":")
        local = kind == LOCAL or self.name == "dask"
        size = max(1, min(self.workers or (default_workers() if local else most), most))
        if kind == "dask":
            opened = _dask_executor(options, size)
        elif kind == LOCAL:
            opened = LocalExecutor(size)
        else:
            opened = SlurmExecutor(out / LOG_FOLDER, _slurm_options(options), size)
        with opened as executor:
            yield executor, size


HERE = ExecutorRequest(workers=1)


def default_workers() -> int:
    """Return one worker a core."""
    return os.cpu_count() or 1


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


class SlurmExecutor(ThreadPoolExecutor):
    """One Slurm job a call, through submitit, whose files all machines share; a thread waits for each."""

    def __init__(self, folder: Path, options: dict[str, Any], size: int) -> None:
        super().__init__(size)
        submitit = _module("submitit", "slurm")
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=options.pop("cluster", "slurm"))
            self._executor.update_parameters(name="kdiga", **options)
        except (NameError, AssertionError, RuntimeError, ValueError) as error:
            raise InputError(f"Slurm cannot be used: {reason_of(error)}. Check the options after 'slurm:'.") from None
        self._cancelled = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a job that calls a picklable function."""
        return super().submit(self._result, self._executor.submit(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End once the jobs are done; with ``cancel_futures`` they are cancelled."""
        if cancel_futures:
            self._cancelled.set()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)

    def _result(self, job: Any) -> Any:
        while not job.done():
            if self._cancelled.wait(SLURM_POLL):
                job.cancel(check=False)
                raise WorkerLostError("the job was cancelled")
        try:
            return job.result()
        except Exception as error:
            words = str(error).strip().splitlines()
            raise WorkerLostError(words[-1] if words else type(error).__name__) from None


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
