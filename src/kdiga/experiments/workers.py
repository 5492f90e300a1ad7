"""Cells run by one process or several, here or in another terminal: each takes the next that nobody holds."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch

from kdiga.data import DataSet
from kdiga.distributed.launch import follow_parent
from kdiga.errors import KdigaError
from kdiga.experiments.board import RunBoard, RunSpec
from kdiga.experiments.failures import WorkersEndedError
from kdiga.experiments.run_one import run_one
from kdiga.experiments.settings import EvaluateSettings
from kdiga.io.file_lock import file_lock
from kdiga.recipes.schema import DataConfig
from kdiga.workflows.prepare import load_recipe_data

POLL = 0.5  # seconds between looks at what others hold

Event = Literal["start", "end", "look"]
OnCell = Callable[[Event, str], None]


def default_workers() -> int:
    """Return one worker a core."""
    return os.cpu_count() or 1


def run_all(
    board: RunBoard, data: DataSet, evaluation: EvaluateSettings, *, workers: int, on_cell: OnCell, apart: bool = False
) -> None:
    """Run every open cell, and wait for those that other processes hold.

    Args:
        board: of all cells.
        data: that they share.
        evaluation: how each is attacked.
        workers: processes; 1 works in this one. Several have one thread each.
        on_cell: told of each cell's start and end, and now and then to look at the folder. What it raises ends the
            workers, whose runs save where they are.
        apart: whether even a single worker is a process of its own, so that ``on_cell`` is told while it works.

    Raises:
        WorkersEndedError: if all worker processes were killed.
        KdigaError: that a worker ended with: a full disk, a damaged file.
        OSError: the same.
    """
    if workers == 1 and not apart:
        work(board, data, evaluation, on_cell)
        return
    config = board.run_specs[0].recipe.data
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, BaseProcess] = {}  # by the end of a pipe; its class depends on the system
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(board, config, evaluation, theirs), daemon=True)
            process.start()
            theirs.close()
            processes[ours] = process
        _listen(processes, on_cell)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()
    if board.count() < len(board.run_specs):
        codes = ", ".join(str(process.exitcode) for process in processes.values())
        raise WorkersEndedError(
            f"every worker ended early (exit status {codes}); perhaps memory ran out. The same command continues, "
            "with fewer --workers if need be."
        )


def work(board: RunBoard, data: DataSet, evaluation: EvaluateSettings, on_cell: OnCell) -> None:
    """Run cells until none is open, in this process."""
    while any(board.state(run_spec) == "open" for run_spec in board.run_specs):
        # From the first again after each: a teacher that has just been trained lets others go ahead.
        if not any(_attempt(run_spec, board, data, evaluation, on_cell) for run_spec in board.run_specs):
            on_cell("look", "")
            time.sleep(POLL)


def _attempt(run_spec: RunSpec, board: RunBoard, data: DataSet, evaluation: EvaluateSettings, on_cell: OnCell) -> bool:
    if board.state(run_spec) != "open" or not board.ready(run_spec):
        return False
    with file_lock(board.out, run_spec.folder) as mine:
        if not mine or board.state(run_spec) != "open":
            return False
        on_cell("start", run_spec.folder)
        run_one(run_spec, board, data, evaluation)
    on_cell("end", run_spec.folder)
    return True


def _worker(board: RunBoard, config: DataConfig, evaluation: EvaluateSettings, tell: Connection) -> None:
    follow_parent()
    torch.set_num_threads(1)

    def on_cell(event: Event, folder: str) -> None:
        if event != "look":
            tell.send((event, folder))

    try:
        work(board, load_recipe_data(config), evaluation, on_cell)
    except (KdigaError, OSError) as error:
        tell.send(error)


def _listen(processes: dict[Any, BaseProcess], on_cell: OnCell) -> None:
    """Pass on what workers tell until all of them have ended."""
    connections: list[Any] = list(processes)
    while connections:
        ready: list[Any] = wait(connections, timeout=POLL)
        for connection in ready:
            try:
                told: KdigaError | OSError | tuple[Event, str] = connection.recv()
            except (EOFError, ConnectionResetError):
                connections.remove(connection)
                continue
            if isinstance(told, Exception):
                raise told
            on_cell(*told)
        if not ready:
            on_cell("look", "")
