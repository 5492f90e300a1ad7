"""Commands that are killed or told to end: what they say, what they leave, and how they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.test_cli import run

RECIPE = """
data: {name: digits, train_examples: 500}
student: {name: cnn-4}
method: {name: pgd-at, steps: 2}
threat: {norm: linf, eps: 0.1}
training: {epochs: 15, batch_size: 50, lr: 2e-2, validation_steps: 2, validate_every: 15, ema: 0.9, seed: 1}
"""
STUDY = """
base: {data: {name: digits, train_examples: 500}, student: cnn-4, threat: {norm: linf, eps: 0.1},
       training: {epochs: 400, batch_size: 50, lr: 2e-2, validation_steps: 2, validate_every: 400}}
methods: {ce: ce, at: {name: pgd-at, steps: 2}}
seeds: [0]
evaluate: {attacks: [clean], examples: 50}
"""
COMMAND = [sys.executable, "-c", "from kdiga.cli import main; main()"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where an uninterrupted run lies."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "main.py").write_text("from kdiga.cli import main\nmain()\n")
    run("train", "recipe.yaml", "--out", "whole", cwd=folder)
    return folder


def start(command, folder, *arguments, until):
    """Start a command in a process of its own, and wait for a file."""
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"KDIGA_DATA": "", "OMP_NUM_THREADS": "1"},
    )
    for _ in range(3600):
        if process.poll() is not None or list(folder.glob(until)):
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[0])


def same(folder, name):
    for which in ("best", "last"):
        one, two = (load_file(folder / run / f"{which}.safetensors") for run in ("whole", name))
        assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_ended_goes_on_bit_equal(number, status, folder):
    name = f"parts-{number}"
    process = start(COMMAND, folder, "train", "recipe.yaml", "--out", name, until=f"{name}/state.pt")
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == status, said
    assert (folder / name / "state.pt").is_file()
    assert not (folder / name / "result.json").exists()
    if number == signal.SIGTERM:
        last = said.strip().splitlines()[-1]
        assert last.startswith("kdiga: stopped by SIGTERM after ")
        assert last.endswith(f"the state is saved in '{name}'. The same command continues from there with --resume.")
    run("train", "recipe.yaml", "--out", name, "--resume", cwd=folder)
    same(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False])
def test_launched_processes_end_together(lost, folder):
    """One of two is killed: the other says so. The launcher is told to end: the first one has saved the state."""
    name = f"two-{lost}"
    port = ["--master-port", "29641" if lost else "29642"]
    process = start(
        [*TORCHRUN, *port], folder, "main.py", "train", "recipe.yaml", "--out", name, until=f"{name}/state.pt"
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]) if lost else process.pid, signal.SIGKILL if lost else signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("kdiga:")]
    assert len(lines) == 1, said
    assert ("another process of this run ended" if lost else "stopped by SIGTERM after") in lines[0]
    run("train", "recipe.yaml", "--out", name, "--resume", cwd=folder)
    assert (folder / name / "last.safetensors").is_file()


@pytest.mark.slow
def test_launched_processes_fill_one_cache(folder):
    (folder / "cached.yaml").write_text(
        RECIPE.replace("{name: pgd-at, steps: 2}", "kdiga") + "teacher: {name: whole}\n"
        "cache: {folder: cache, shard_examples: 50}\n"
    )
    process = subprocess.run(
        [*TORCHRUN, "--master-port", "29643", "main.py", "cache", "cached.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KDIGA_DATA": "", "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("kdiga cache:") == process.stdout.count("Next: kdiga train") == 1
    assert "complete" in run("train", "cached.yaml", "--dry-run", cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_study_that_is_told_to_end_keeps_what_its_workers_did(workers, folder):
    (folder / "study.yaml").write_text(STUDY)
    out = f"study-{workers}"
    process = start(
        COMMAND, folder, "study", "study.yaml", "--out", out, "--workers", workers, until=f"{out}/**/state.pt"
    )
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert list(folder.glob(f"{out}/**/state.pt"))
    assert not list(folder.glob(f"{out}/**/failure.json"))
    assert "Traceback" not in said
