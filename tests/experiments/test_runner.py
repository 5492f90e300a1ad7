"""The runner: each run is made by one worker, teachers first; a lost worker costs its run alone; locks end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdiga.distributed.worker_processes import LocalExecutor, WorkerLostError, WorkersEndedError
from kdiga.errors import InputError
from kdiga.experiments import run_one, runner
from kdiga.experiments.board import RunBoard
from kdiga.experiments.executors import HERE, ExecutorRequest
from kdiga.experiments.runner import run_board
from kdiga.io import file_lock as locks
from kdiga.io.file_lock import file_lock
from kdiga.workflows.prepare import load_recipe_data


@pytest.fixture
def noted(monkeypatch):
    """Runs that write their files and do nothing else; in the order in which they started and ended."""
    events = []

    def run(task, data):
        run_spec = task.run_spec
        events.append(("start", run_spec.folder))
        for need in run_spec.needs:
            assert (task.out / need / "result.json").is_file()
        time.sleep(0.02)
        folder = task.out / run_spec.folder
        folder.mkdir(parents=True)  # fails where another worker has been
        # Before the files: a run that waits for them may start as soon as they are there.
        events.append(("end", run_spec.folder))
        for name in ("result.json", "best-test.json", "last-test.json"):
            (folder / name).write_text("{}")

    monkeypatch.setattr(run_one, "_run", run)
    monkeypatch.setattr(runner, "POLL", 0.005)
    return events


def go(checked, request=HERE, data=None, **options):
    """Run a board with a request; return the folders that ended here."""
    ended = []
    run_board(
        RunBoard(checked.run_specs, checked.out, time.time()),
        data,
        checked.evaluation,
        request=request,
        on_progress=lambda progress: ended.append(progress.ended),
        **{"on_end": lambda: None} | options,
    )
    return [folder for folder in ended if folder]


def test_two_commands_never_make_the_same_run(study, noted):
    checked = study(("[0, 1]", str(list(range(12)))))
    failures = []

    def work():
        try:
            go(checked)
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


def test_a_run_that_another_finished_meanwhile_is_not_made_again(study, noted, monkeypatch):
    checked = study()
    run_spec = next(run_spec for run_spec in checked.run_specs if run_spec.folder == "ce/seed-0")
    task = run_one.RunTask(run_spec, (), checked.out, 0.0, checked.evaluation, Path.cwd())

    @contextmanager
    def held_late(out, name):
        run_one._run(task, None)  # by the other, between our look and our lock
        yield True

    monkeypatch.setattr(run_one, "file_lock", held_late)
    assert not run_one.run_if_open(task, None)
    assert len(noted) == 2


def test_a_command_waits_for_runs_that_others_make(study, noted):
    checked = study()
    with file_lock(checked.out, "teachers/robust"):
        thread = threading.Thread(target=go, args=(checked,))
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


def test_a_killed_worker_loses_its_own_call_alone():
    executor = LocalExecutor(2)
    try:
        slow, other = executor.submit(time.sleep, 60), executor.submit(os.getpid)
        first = other.result(60)
        assert executor.submit(os.getpid).result(60) == first, "a process is used again"
        for process, _ in list(executor._workers.values()):
            if process.pid != first:
                os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerLostError, match="exit status -9"):
            slow.result(60)
        assert executor.submit(os.getpid).result(60) == first
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result(60)
        pair = [executor.submit(time.sleep, 0.5), executor.submit(os.getpid)]
        assert not wait(pair, 60).not_done, "another process took the place of the killed one"
    finally:
        executor.shutdown(cancel_futures=True)
    assert not any(process.is_alive() for process, _ in executor._workers.values())


class LosingExecutor(LocalExecutor):
    """Loses the workers of some runs, so many times each."""

    def __init__(self, losses):
        super().__init__(1)
        self.losses = losses

    def submit(self, fn, task):
        future = super().submit(int)
        future.result(60)
        left = self.losses.get(task.run_spec.folder, 0)
        self.losses[task.run_spec.folder] = left - 1
        lost = type(future)()
        if left > 0:
            lost.set_exception(WorkerLostError("exit status -9"))
        else:
            lost.set_result(run_one.run_if_open(task, None))
        return lost


@pytest.fixture
def losing(monkeypatch):
    """A request whose executor loses workers, by folder of the run so many times."""

    def request(size, **losses):
        @contextmanager
        def opened(self, most, out):
            executor = LosingExecutor({folder.replace("_", "/"): count for folder, count in losses.items()})
            try:
                yield executor, size
            finally:
                executor.shutdown(cancel_futures=True)

        monkeypatch.setattr(ExecutorRequest, "opened", opened)
        return ExecutorRequest(workers=2)

    return request


def test_a_run_whose_worker_is_lost_is_tried_again_and_noted_after_three_times(study, noted, losing):
    checked = study()
    request = losing(2, **{"ce_seed-0": 2, "ce_seed-1": 3})
    ended = go(checked, request)
    assert sorted(ended) == sorted(run_spec.folder for run_spec in checked.run_specs)
    board = RunBoard(checked.run_specs, checked.out)
    assert board.folders("failed") == ["ce/seed-1"]
    note = json.loads(Path("out/ce/seed-1/failure.json").read_text())
    assert note["error"] == "its worker ended early 3 times (exit status -9); perhaps memory ran out"


def test_workers_that_are_all_lost_end_it(study, noted, losing):
    checked = study()
    request = losing(1, **{f"{label}_seed-{seed}": 9 for label in ("ce", "kd") for seed in (0, 1)}, teachers_robust=9)
    with pytest.raises(WorkersEndedError, match=r"every worker ended early \(exit status -9\); perhaps memory ran out"):
        go(checked, request)


def test_a_time_limit_starts_nothing_more(study, noted):
    assert go(study(), ExecutorRequest(workers=2), minutes=0.0) == []
    assert noted == []


def test_a_dask_cluster_of_this_machine_makes_the_runs(study):
    pytest.importorskip("distributed")
    checked = study(("epochs: 3", "epochs: 1"), ("[0, 1]", "[0]"), ("  ce: ce\n", ""))
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    board, request = checked.open(data), ExecutorRequest("dask", 1)
    content = checked.run(board, data, request=request, on_progress=lambda progress: None)
    entries = (*content["teachers"], *content["methods"])
    assert [run["status"] for entry in entries for run in entry["runs"]] == ["done", "done"]


ONE_RUN = (
    ("epochs: 3", "epochs: 1"),
    ("  teacher: robust\n", ""),
    ("teachers:\n  robust: {student: cnn-8, method: ce}\n", ""),
    ("  kd: {name: kd, temperature: 4}\n", ""),
    ("[0, 1]", "[0]"),
)


def test_a_dask_scheduler_makes_the_runs(study):
    """One that was started before, here with a worker in this process."""
    distributed = pytest.importorskip("distributed")
    checked = study(*ONE_RUN)
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        protocol="tcp://",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        assert go(checked, ExecutorRequest(f"dask:{cluster.scheduler_address}")) == ["ce/seed-0"]
    assert json.loads(Path("out/ce/seed-0/result.json").read_text())["epochs"] == 1


def test_submitit_makes_the_runs(study):
    """By its executor for one machine, which starts a process a job."""
    pytest.importorskip("submitit")
    checked = study(*ONE_RUN)
    assert go(checked, ExecutorRequest("slurm:cluster=local,timeout_min=5,partition=any")) == ["ce/seed-0"]
    assert json.loads(Path("out/ce/seed-0/result.json").read_text())["epochs"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slrum", r"executor 'slrum' is not known; did you mean slurm\?"),
        ("local:4", "local has no options; set --workers N"),
        ("slurm:partition", r"executor option was 'partition'; write slurm:KEY=VALUE"),
        ("slurm:=3", r"executor option was '=3'; write slurm:KEY=VALUE"),
    ],
)
def test_requests_that_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        ExecutorRequest(name)


@pytest.mark.parametrize(("name", "package"), [("dask", "distributed"), ("slurm", "submitit")])
def test_a_missing_package_is_named_with_its_extra(name, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(
            InputError, match=rf"executor {name} needs the package {package}; .*pip install 'kdiga\[{name}\]'"
        ),
        ExecutorRequest(name).opened(1, tmp_path),
    ):
        pass


@pytest.mark.parametrize("options", ["cluster=moon", "timeout_min=soon", "partishun=gpu"])
def test_options_that_submitit_refuses(options, tmp_path):
    pytest.importorskip("submitit")
    if "cluster" not in options:
        options += ",cluster=local"
    with (
        pytest.raises(InputError, match=r"Slurm cannot be used: .* Check the options after 'slurm:'"),
        ExecutorRequest(f"slurm:{options}").opened(1, tmp_path),
    ):
        pass


def test_a_lock_is_held_by_one_and_freed_by_a_kill(tmp_path):
    script = (  # by its path, for the package would bring PyTorch along
        "import runpy, sys, time; from pathlib import Path; file_lock = runpy.run_path(sys.argv[2])['file_lock']\n"
        "with file_lock(Path(sys.argv[1]), 'a/b') as mine: print(mine, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), locks.__file__]
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
