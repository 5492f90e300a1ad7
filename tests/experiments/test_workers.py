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
from kdiga.experiments.board import RunBoard
from kdiga.io.file_lock import file_lock


@pytest.fixture
def noted(monkeypatch):
    """Cells that write their files and do nothing else; in the order in which they started and ended."""
    events = []

    def run_cell(run_spec, board, data, evaluation):
        events.append(("start", run_spec.folder))
        for need in run_spec.needs:
            assert (board.out / need / "result.json").is_file()
        time.sleep(0.02)
        folder = board.out / run_spec.folder
        folder.mkdir(parents=True)  # fails where another worker has been
        # Before the files: a cell that waits for them may start as soon as they are there.
        events.append(("end", run_spec.folder))
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
            workers.work(RunBoard(checked.run_specs, checked.out), None, checked.evaluation, lambda event, folder: None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    started = [folder for event, folder in noted if event == "start"]
    assert sorted(started) == sorted(run_spec.folder for run_spec in checked.run_specs)
    running = [0]
    for event, _ in noted:
        running.append(running[-1] + (1 if event == "start" else -1))
    assert max(running) > 1, "they did work at the same time"
    first_student = next(row for row, event in enumerate(noted) if event[1].startswith("kd/"))
    assert noted.index(("end", "teachers/robust")) < first_student


def test_a_cell_that_another_finished_meanwhile_is_not_run_again(study, noted, monkeypatch):
    checked = study()
    board = RunBoard(checked.run_specs, checked.out)
    run_spec = next(run_spec for run_spec in checked.run_specs if run_spec.folder == "ce/seed-0")

    @contextmanager
    def held_late(out, name):
        workers.run_cell(run_spec, board, None, None)  # by the other, between our look and our lock
        yield True

    monkeypatch.setattr(workers, "held", held_late)
    assert not workers._attempt(run_spec, board, None, checked.evaluation, lambda event, folder: None)
    assert len(noted) == 2


def test_a_worker_waits_for_cells_that_others_hold(study, noted):
    checked = study()
    board = RunBoard(checked.run_specs, checked.out)
    with file_lock(checked.out, "teachers/robust"):
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
    assert len(noted) == 2 * len(checked.run_specs)


def test_a_lock_is_held_by_one_and_freed_by_a_kill(tmp_path):
    script = (  # by its path, for the package would bring PyTorch along
        "import runpy, sys, time; from pathlib import Path; held = runpy.run_path(sys.argv[2])['held']\n"
        "with held(Path(sys.argv[1]), 'a/b') as mine: print(mine, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(locks.__file__)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "True\n"
        with file_lock(tmp_path, "a/b") as mine:
            assert not mine
        with file_lock(tmp_path, "a/c") as mine:
            assert mine
        process.kill()
        process.wait(10)
        with file_lock(tmp_path, "a/b") as mine:
            assert mine
    finally:
        process.kill()
        process.communicate()


def test_old_failures_are_tried_again_and_divergence_is_not(study):
    checked = study()
    for folder, status in (("ce/seed-0", "failed"), ("ce/seed-1", "diverged")):
        Path("out", folder).mkdir(parents=True)
        Path("out", folder, "failure.json").write_text(json.dumps({"status": status, "error": "", "time": 100.0}))
    by_folder = {run_spec.folder: run_spec for run_spec in checked.run_specs}
    for since, expected in ((99.0, "failed"), (101.0, "open")):
        board = RunBoard(checked.run_specs, checked.out, since)
        assert board.state(by_folder["ce/seed-0"]) == expected
        assert board.state(by_folder["ce/seed-1"]) == "diverged"
