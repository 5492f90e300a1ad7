"""A study from its file's cells to its tables, told to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdiga.data import DataSet
from kdiga.experiments.board import RunBoard
from kdiga.experiments.check import check_folder, check_models
from kdiga.experiments.settings import EvaluateSettings
from kdiga.experiments.study import Study
from kdiga.experiments.study_results import write_study
from kdiga.experiments.workers import Event, run_all
from kdiga.io.file_lock import file_lock
from kdiga.report.study import write_tables


@dataclass(frozen=True)
class BoardProgress:
    """Where a set of runs stands.

    Args:
        done: cells that have ended, in whatever way, whoever ran them.
        total: of them.
        running: folders of the cells that this command runs now.
        ended: folder of the cell that has just ended, or None.
        seconds_left: judged by the cells that have ended since the start; None before the first.
    """

    done: int
    total: int
    running: tuple[str, ...]
    ended: str | None
    seconds_left: float | None


OnWatch = Callable[[BoardProgress], None]


def open_board(study: Study, data: DataSet, *, since: float) -> RunBoard:
    """Check a study against its models and its folder, and return its board.

    Raises:
        InputError: if a model does not fit, or the folder holds another study's runs.
    """
    check_models(study.run_specs, study.out, data)
    board = RunBoard(study.run_specs, study.out, since)
    check_folder(board, study.evaluation, data)
    return board


def run_study(study: Study, board: RunBoard, data: DataSet, *, workers: int, on_watch: OnWatch) -> dict[str, Any]:
    """Run what is not finished, rewriting the tables after each cell, and return ``study.json``'s content.

    Args:
        study: what was asked.
        board: of its cells.
        data: that they share.
        workers: processes.
        on_watch: told how far it is.

    Raises:
        WorkersEndedError: if all worker processes were killed.
    """

    def on_end() -> None:
        # No pictures on the way: a core draws for seconds where it could train, and --report draws when asked.
        report_study(study, board, data, pictures=False)

    run_board(board, data, study.evaluation, workers=workers, on_watch=on_watch, on_end=on_end)
    return report_study(study, board, data)


def report_study(study: Study, board: RunBoard, data: DataSet, *, pictures: bool = True) -> dict[str, Any]:
    """Write ``study.json``, tables and pictures from what is there, and return the first's content."""
    # Two terminals may share the folder, and a reader should find the files of one moment.
    with file_lock(board.out, "report", wait=True):
        content = write_study(study, board, data)
        write_tables(board.out, pictures=pictures)
    return content


def run_board(
    board: RunBoard,
    data: DataSet,
    evaluation: EvaluateSettings,
    *,
    workers: int,
    on_watch: OnWatch,
    on_end: Callable[[], None],
    apart: bool = False,
) -> None:
    """Run the open cells of a board.

    Args:
        board: of all cells.
        data: that they share.
        evaluation: how each is attacked.
        workers: processes; no more than there are cells to run.
        on_watch: told how far it is.
        on_end: called after each cell.
        apart: see :func:`kdiga.experiments.workers.run_all`.
    """
    started, before, total = time.monotonic(), board.count(), len(board.run_specs)
    running: list[str] = []

    def on_cell(event: Event, folder: str) -> None:
        if event == "start":
            running.append(folder)
        elif event == "end":
            running.remove(folder)
            on_end()
        done = board.count()
        pace = (time.monotonic() - started) / (done - before) if done > before else None
        on_watch(
            BoardProgress(
                done, total, tuple(running), folder if event == "end" else None, pace and pace * (total - done)
            )
        )

    if before < total:
        count = max(1, min(workers, total - before))
        run_all(board, data, evaluation, workers=count, on_cell=on_cell, apart=apart)
