"""``kdiga study`` and ``kdiga tune`` as a user meets them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import kdiga
from kdiga.experiments.study import load_study
from tests.cli.test_cli import RECIPES, run
from tests.experiments.conftest import TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished study of two methods and two seeds, and what was printed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tiny.yaml").write_text(TINY)
    output = run("study", "tiny.yaml", "--workers", "1", cwd=folder)
    return folder, output


def test_a_study_leaves_tables(finished):
    folder, output = finished
    assert "5 cells, 0 finished, in runs/tiny" in output
    assert [f"{n}/5" in output for n in range(1, 6)] == [True] * 5
    assert "robust (teacher)" in output
    assert "runs/tiny/table.md" in output
    assert "5 of 5 cells finished" in (folder / "runs/tiny/table.md").read_text()
    assert kdiga.load_model(folder / "runs/tiny/kd/seed-1").spec.name == "cnn-4"
    evaluated = run("evaluate", "runs/tiny/kd/seed-1", "--attacks", "clean", "--examples", "20", cwd=folder)
    assert "20 test images of digits" in evaluated


def test_a_finished_study_is_not_run_again(finished):
    folder, _ = finished
    result = folder / "runs/tiny/kd/seed-1/result.json"
    before = result.stat().st_mtime_ns
    output = run("study", "tiny.yaml", cwd=folder)
    assert "5 cells, 5 finished" in output
    assert "1/5" not in output
    assert result.stat().st_mtime_ns == before


def test_report_only(finished):
    folder, _ = finished
    (folder / "runs/tiny/table.md").unlink()
    assert "kd" in run("study", "tiny.yaml", "--report", cwd=folder)
    assert (folder / "runs/tiny/table.md").is_file()


def test_dry_run_lists_the_cells_and_writes_nothing(finished):
    folder, _ = finished
    output = run("study", "tiny.yaml", "--dry-run", "--seeds", "4,5", "--out", "elsewhere", cwd=folder)
    assert "kd/seed-5" in output
    assert "teachers/robust" in output
    assert "would write to elsewhere" in output
    assert not (folder / "elsewhere").exists()
    assert "done" in run("study", "tiny.yaml", "--dry-run", cwd=folder)


BAD = {
    "no file": (["study", "none.yaml"], "cannot be read"),
    "unknown key": (["study", "tiny.yaml", "--set", "seds=[1]"], "did you mean seeds"),
    "another configuration": (["study", "tiny.yaml", "--set", "methods.kd.temperature=9"], "9.0 here"),
    "bad seeds": (["study", "tiny.yaml", "--seeds", "one"], "list of at least one seed"),
    "no workers": (["study", "tiny.yaml", "--workers", "0"], "--workers"),
    "unknown student": (["study", "tiny.yaml", "--out", "x", "--set", "base.student=cnn4"], "did you mean cnn-4"),
    "unknown coefficient": (["tune", "{recipe}", "--set", "method.wieght=1"], "wieght: unknown key"),
    "no trials": (["tune", "{recipe}", "--trials", "0"], "--trials"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_status_2(case, finished):
    arguments, message = BAD[case]
    arguments = [argument.replace("{recipe}", str(RECIPES / "digits-tangent.yaml")) for argument in arguments]
    output = run(*arguments, cwd=finished[0], expect=2)
    assert message in output
    assert len(output.strip().splitlines()) == 1, output


def test_failed_cells_end_in_status_1(finished, tmp_path, monkeypatch):
    from kdiga.experiments import run_one

    def fails(*arguments, **keywords):
        raise OSError("the disk is full")

    monkeypatch.setattr(run_one, "run_recipe", fails)
    (tmp_path / "tiny.yaml").write_text(TINY)
    output = run("study", "tiny.yaml", "--workers", "1", cwd=tmp_path, expect=1)
    assert "5 cells failed: teachers/robust, ce/seed-0, kd/seed-0" in output
    assert "failure.json says why" in output
    monkeypatch.undo()
    assert "0 finished" in run("study", "tiny.yaml", "--workers", "1", cwd=tmp_path)


def test_tune(finished):
    folder, _ = finished
    recipe = {
        "data": {"name": "digits", "train_examples": 400},
        "student": {"name": "cnn-4"},
        "method": {"name": "kd"},
        "teacher": {"name": "runs/tiny/teachers/robust"},
        "training": {"epochs": 3, "batch_size": 16, "lr": 0.03, "validation_steps": 2},
    }
    (folder / "mine.yaml").write_text(json.dumps(recipe))
    output = run("tune", "mine.yaml", "--trials", "2", "--epochs", "2", "--workers", "1", cwd=folder)
    assert "2/2  trial-01" in output
    assert "chosen" in output
    assert "Next: kdiga train runs/mine-tune/best.yaml --out runs/mine-tune-best" in output
    again = run("tune", "mine.yaml", "--trials", "2", "--epochs", "2", cwd=folder)
    assert "2/2" not in again
    assert "epochs: 3" in run("train", "runs/mine-tune/best.yaml", "--dry-run", cwd=folder)
    assert "no coefficients to tune" in run("tune", "mine.yaml", "--set", "method=ce", cwd=folder)


def test_all_trials_diverged(finished):
    folder, _ = finished
    arguments = ["--set", "training.lr=1e9", "--set", "data.train_examples=400", "--set", "training.epochs=1"]
    output = run(
        "tune",
        str(RECIPES / "digits-tangent.yaml"),
        "--trials",
        "1",
        "--workers",
        "1",
        "--out",
        "lost",
        "--set",
        "teacher=runs/tiny/teachers/robust",
        *arguments,
        cwd=folder,
        expect=1,
    )
    assert "all 1 trials diverged" in output
    assert not (folder / "lost/best.yaml").exists()


LONG = TINY.replace("epochs: 3", "epochs: 60").replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")


def wait_for_a_checkpoint(folder):
    """Wait until some cell has finished an epoch."""
    deadline = time.monotonic() + 90
    while not list(folder.glob("*/*/state.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)


def open_locks(folder):
    """Return whether any cell of a study is held."""
    from kdiga.io.file_lock import file_lock

    for path in (folder / ".locks").rglob("*.lock"):
        with file_lock(folder, str(path.relative_to(folder / ".locks").with_suffix(""))) as mine:
            if not mine:
                return True
    return False


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(tmp_path, capfd):
    (tmp_path / "long.yaml").write_text(LONG)

    def press_ctrl_c():
        wait_for_a_checkpoint(tmp_path / "stopped")
        for worker in multiprocessing.active_children():  # a terminal sends it to all
            os.kill(worker.pid, signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background job is born ignoring SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press_ctrl_c)
    thread.start()
    try:
        errors = run("study", "long.yaml", "--out", "stopped", "--workers", "2", cwd=tmp_path, expect=130)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert errors.strip() == "kdiga: interrupted. Finished work is saved. Run the same command again to continue."
    assert "Traceback" not in capfd.readouterr().err
    assert multiprocessing.active_children() == []
    assert not open_locks(tmp_path / "stopped")
    assert list((tmp_path / "stopped").glob("*/*/state.pt"))


@pytest.mark.slow
def test_the_workers_of_a_killed_study_end_too_and_another_study_goes_on(tmp_path):
    (tmp_path / "long.yaml").write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, "-c", "from kdiga.cli import main; main()", "study", "long.yaml", "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    folder = tmp_path / "runs/long"
    wait_for_a_checkpoint(folder)
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 10
    while open_locks(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not open_locks(folder)
    output = run("study", "long.yaml", "--workers", "2", cwd=tmp_path)
    assert "9 of 9 cells finished" in output


def test_shipped_studies_are_valid():
    for path in sorted(RECIPES.glob("study-*.yaml")):
        assert load_study(path).run_specs
    assert Path(RECIPES / "study-digits.yaml").is_file()
