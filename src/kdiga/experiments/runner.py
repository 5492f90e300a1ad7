"""The one runner: hands the runs that are ready to an executor until none is open.

Several commands may share a folder. Each run has a lock file, and whoever holds it makes the run; the others wait for
its files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.distributed.worker_processes import WorkersEndedError
from kdiga.experiments.board import RunBoard, RunSpec, note_failure
from kdiga.experiments.executors import ExecutorRequest
from kdiga.experiments.run_one import RunTask, run_if_open, run_in_worker
from kdiga.experiments.sections import EvaluateSettings
from kdiga.io.file_lock import file_lock

POLL = 0.5  # seconds between looks at runs of other processes
ATTEMPTS = 3  # at a run whose worker is lost


@dataclass(frozen=True)
class BoardProgress:
    """Progress of a set of runs."""

    done: int  # number of runs that are not open any more, whoever made them
    total: int  # number of runs
    running: tuple[str, ...]  # folders of the runs that this command makes now
    ended: str | None  # folder of the run that has just ended, or None
    seconds_left: float | None  # estimate by the runs that have ended since the start; None before the first


OnProgress = Callable[[BoardProgress], None]


def run_board(
    board: RunBoard,
    data: DataSet,
    evaluation: EvaluateSettings,
    *,
    request: ExecutorRequest,
    on_progress: OnProgress,
    on_end: Callable[[], None],
    minutes: float | None = None,
) -> None:
    """Make every open run, and wait for those that other processes make.

    Args:
        board: The board of all runs.
        data: Data that they share.
        evaluation: How each is attacked.
        request: Where runs are made. One worker on this machine is this process, unless there is a time limit.
        on_progress: Called when a run starts or ends, and every half second with other processes. What it raises ends
            the workers.
        on_end: Called after each run, before ``on_progress``.
        minutes: Time limit, after which the runs that are going on save their state and end; None for no limit.

    Raises:
        WorkersEndedError: If one worker after another was lost.
        KdigaError: The error that a worker ended with: a full disk, a damaged file.
        OSError: The same.
    """
    left = len(board.run_specs) - board.count()
    if not left:
        return
    inside = request.in_this_process and minutes is None
    with nullcontext((None, 1)) if inside else request.opened(left, board.out) as (executor, size):
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        _Runner(board, data, evaluation, executor, size, on_progress, on_end).run(deadline)


@dataclass
class _Runner:
    board: RunBoard
    data: DataSet
    evaluation: EvaluateSettings
    executor: Executor | None  # None is this process
    size: int
    on_progress: OnProgress
    on_end: Callable[[], None]
    running: dict[str, Future[Any]] = field(default_factory=dict[str, Future[Any]])  # by folder
    losses: Counter[str] = field(default_factory=Counter[str])
    lost_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.started, self.done_before = time.monotonic(), self.board.count()

    def run(self, deadline: float | None) -> None:
        while deadline is None or time.monotonic() < deadline:
            board = self.board
            waiting = [one for one in board.run_specs if one.folder not in self.running and board.state(one) == "open"]
            if not waiting and not self.running:
                return
            for run_spec in waiting:
                if len(self.running) < self.size and board.ready(run_spec) and not _locked(board.out, run_spec.folder):
                    self._start(run_spec)
            if not self.running:  # other processes make what is left
                self._wait_for_others()
                continue
            ended, _ = wait(self.running.values(), POLL, FIRST_COMPLETED)
            for folder in [folder for folder, future in self.running.items() if future in ended]:
                self._settle(folder, self.running.pop(folder))
            if not ended:
                self._tell()

    def _start(self, run_spec: RunSpec) -> None:
        board = self.board
        task = RunTask(run_spec, board.trials_of(run_spec), board.out, board.since, self.evaluation, Path.cwd())
        future = self.running[run_spec.folder] = Future[Any]()
        self._tell()
        if self.executor is None:
            future.set_result(run_if_open(task, self.data))
        else:
            self.running[run_spec.folder] = self.executor.submit(run_in_worker, task)

    def _settle(self, folder: str, future: Future[Any]) -> None:
        try:
            outcome = future.result()
        except Exception as error:  # the executor's own: see run_in_worker
            if not self._given_up(folder, error):
                return
        else:
            self.lost_in_a_row = 0
            if isinstance(outcome, Exception):
                raise outcome
            if not outcome:  # another process was faster
                self._wait_for_others()
                return
        self.on_end()
        self._tell(folder)

    def _given_up(self, folder: str, error: Exception) -> bool:
        """Count a lost worker; after some, note the run's failure and return True. Until then it is tried again."""
        self.losses[folder] += 1
        self.lost_in_a_row += 1
        if self.lost_in_a_row >= ATTEMPTS * max(2, self.size):
            raise WorkersEndedError(
                f"every worker ended early ({error}); perhaps memory ran out. The same command continues, with fewer "
                "--workers if necessary."
            )
        if self.losses[folder] < ATTEMPTS:
            return False
        reason = f"its worker ended early {ATTEMPTS} times ({error}); perhaps memory ran out"
        note_failure(self.board.out / folder, "failed", reason, time.time())
        return True

    def _wait_for_others(self) -> None:
        time.sleep(POLL)
        self._tell()

    def _tell(self, ended: str | None = None) -> None:
        done, total = self.board.count(), len(self.board.run_specs)
        new = done - self.done_before
        left = (time.monotonic() - self.started) / new * (total - done) if new > 0 else None
        self.on_progress(BoardProgress(done, total, tuple(self.running), ended, left))


def _locked(out: Path, folder: str) -> bool:
    """Return whether another process makes a run."""
    with file_lock(out, folder) as mine:
        return not mine
