"""Several workers on one folder: each cell is run by one of them, teachers first, and locks outlive nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from kdiga.study import workers

from kdiga import locks
from kdiga.experiments.board import Board
from kdiga.io.file_lock import held


@pytest.fixture
def noted(monkeypatch):
    """Cells that write their files and do nothing else; in the order in which they started and ended."""
    events = []

    def run_cell(cell, board, data, evaluation):
        events.append(("start", cell.folder))
        for need in cell.needs:
            assert (board.out / need / "result.json").is_file()
        time.sleep(0.02)
        folder = board.out / cell.folder
        folder.mkdir(parents=True)  # fails where another worker has been
        # Before the files: a cell that waits for them may start as soon as they are there.
        events.append(("end", cell.folder))
        for name in ("result.json", "best-test.json", "last-test.json"):
            (folder / name).write_text("{}")

    monkeypatch.setattr(workers, "run_cell", run_cell)
    monkeypatch.setattr(workers, "POLL", 0.005)
    return events


def test_two_workers_never_run_the_same_cell(study, noted):
    checked = study(("[0, 1]", str(list(range(12)))))
    failures = []

    def work():
        try:
            workers.work(Board(checked.cells, checked.out), None, checked.evaluation, lambda event, folder: None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    started = [folder for event, folder in noted if event == "start"]
    assert sorted(started) == sorted(cell.folder for cell in checked.cells)
    running = [0]
    for event, _ in noted:
        running.append(running[-1] + (1 if event == "start" else -1))
    assert max(running) > 1, "they did work at the same time"
    first_student = next(row for row, event in enumerate(noted) if event[1].startswith("kd/"))
    assert noted.index(("end", "teachers/robust")) < first_student


def test_a_cell_that_another_finished_meanwhile_is_not_run_again(study, noted, monkeypatch):
    checked = study()
    board = Board(checked.cells, checked.out)
    cell = next(cell for cell in checked.cells if cell.folder == "ce/seed-0")

    @contextmanager
    def held_late(out, name):
        workers.run_cell(cell, board, None, None)  # by the other, between our look and our lock
        yield True

    monkeypatch.setattr(workers, "held", held_late)
    assert not workers._attempt(cell, board, None, checked.evaluation, lambda event, folder: None)
    assert len(noted) == 2


def test_a_worker_waits_for_cells_that_others_hold(study, noted):
    checked = study()
    board = Board(checked.cells, checked.out)
    with held(checked.out, "teachers/robust"):
        thread = threading.Thread(
            target=workers.work, args=(board, None, checked.evaluation, lambda event, folder: None)
        )
        thread.start()
        deadline = time.monotonic() + 10
        while len(noted) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert [folder for event, folder in noted if event == "end"] == ["ce/seed-0", "ce/seed-1"]
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()
    assert len(noted) == 2 * len(checked.cells)


def test_a_lock_is_held_by_one_and_freed_by_a_kill(tmp_path):
    script = (  # by its path, for the package would bring PyTorch along
        "import runpy, sys, time; from pathlib import Path; held = runpy.run_path(sys.argv[2])['held']\n"
        "with held(Path(sys.argv[1]), 'a/b') as mine: print(mine, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(locks.__file__)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "True\n"
        with held(tmp_path, "a/b") as mine:
            assert not mine
        with held(tmp_path, "a/c") as mine:
            assert mine
        process.kill()
        process.wait(10)
        with held(tmp_path, "a/b") as mine:
            assert mine
    finally:
        process.kill()
        process.communicate()


def test_old_failures_are_tried_again_and_divergence_is_not(study):
    checked = study()
    for folder, status in (("ce/seed-0", "failed"), ("ce/seed-1", "diverged")):
        Path("out", folder).mkdir(parents=True)
        Path("out", folder, "failure.json").write_text(json.dumps({"status": status, "error": "", "time": 100.0}))
    by_folder = {cell.folder: cell for cell in checked.cells}
    for since, expected in ((99.0, "failed"), (101.0, "open")):
        board = Board(checked.cells, checked.out, since)
        assert board.state(by_folder["ce/seed-0"]) == expected
        assert board.state(by_folder["ce/seed-1"]) == "diverged"
