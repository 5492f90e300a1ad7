"""``kdiga cache`` as a user meets it: filled once, by one or several, whoever is killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import kdiga
from tests.cli.test_cli import run
from tests.teachers.test_store import contents, flip, times
from tests.training.test_loop import small
from tests.workflows.test_cache import BASE, TRAINING

TRAIN = ("train", "mine.yaml", "--despite-findings")  # nobody taught the teacher

RECIPE = {
    **BASE,
    "teacher": "teacher.safetensors",
    "method": "kdiga",
    "training": TRAINING | {"epochs": 5},
    "cache": {"folder": "store", "shard_examples": 100},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a teacher, a recipe, and its store."""
    import yaml

    folder = tmp_path_factory.mktemp("project")
    kdiga.save_model(small(1, "cnn-8", classes=10), folder / "teacher.safetensors")
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    output = run("cache", "mine.yaml", cwd=folder)
    return folder, output


def test_fill_and_train(project):
    folder, output = project
    assert "logits and fp16 gradients of the loss; 360 examples, 4 views" in output
    assert "0 of 16 shards are there" in output
    assert [f"{n}/16" in output for n in (1, 16)] == [True, True]
    assert "1,440 rows" in output
    assert "logits 0.0e+00, gradients 2.4e-04. Next: kdiga train mine.yaml" in output
    gentle = (
        "method={name: kdiga, label_weight: 1, teacher_weight: 0, gradient_weight: 0.01}"  # nobody taught the teacher
    )
    assert "best: epoch" in run(*TRAIN, "--set", gentle, cwd=folder)
    assert "# teacher cache: store, complete" in run(*TRAIN, "--dry-run", "--out", "x", cwd=folder)


def test_a_full_store_is_verified_and_left(project):
    folder, _ = project
    before, stamps = contents(folder / "store"), times(folder / "store")
    output = run("cache", "mine.yaml", "--workers", "2", cwd=folder)
    assert "16 of 16 shards are there" in output
    assert times(folder / "store") == stamps
    flip(folder / "store/view-2/00001.npy")
    assert "does not match its checksum" in run(*TRAIN, "--out", "flipped", cwd=folder, expect=2)
    output = run("cache", "mine.yaml", cwd=folder)
    assert "store/view-2/00001.npy does not match its checksum: filled again." in output
    assert contents(folder / "store") == before


def test_another_batch_size_is_told(project):
    folder, _ = project
    output = run("cache", "mine.yaml", "--set", "training.batch_size=30", cwd=folder)
    assert "filled at batch size 20 and training has 30: equal to rounding, not bit for bit" in output


def test_dry_run_and_one_view(project):
    folder, _ = project
    changes = ["--set", "cache.folder=dry", "--set", "training.augment=none", "--set", "method=kd"]
    output = run("cache", "mine.yaml", "--dry-run", *changes, cwd=folder)
    assert "logits; 360 examples, 1 views: " in output
    assert "all views are alike and one is stored" in output
    assert "would write to dry" in output
    assert not (folder / "dry").exists()


def test_overwrite(project):
    folder, _ = project
    small_one = ["--set", "cache.folder=again", "--set", "cache.views=1"]
    run("cache", "mine.yaml", *small_one, cwd=folder)
    other = [*small_one, "--set", "cache.dtype=int8"]
    assert "'fp16' there and 'int8' here" in run("cache", "mine.yaml", *other, cwd=folder, expect=2)
    output = run("cache", "mine.yaml", *other, "--overwrite", cwd=folder)
    assert "0 of 4 shards are there" in output
    assert "gradients 3.9e-03" in output


BAD = {
    "no section": (["cache", "plain.yaml"], "the recipe has no section cache; add `cache: {folder: ...}`"),
    "a method that asks": (["cache", "mine.yaml", "--set", "method=adaad"], "queries its teacher on perturbed images"),
    "no teacher's method": (["cache", "mine.yaml", "--set", "method=ce"], "uses no teacher"),
    "not filled": ([*TRAIN, "--set", "cache.folder=none"], "fill it with `kdiga cache RECIPE`"),
    "unknown key": (["cache", "mine.yaml", "--set", "cache.view=2"], "did you mean views"),
    "no workers": (["cache", "mine.yaml", "--workers", "0"], "--workers"),
    "blocks that do not fit": (["cache", "mine.yaml", "--set", "cache.downsample=3"], "it must divide 8 and 8"),
    "a folder that is a file": (["cache", "mine.yaml", "--set", "cache.folder=mine.yaml"], "choose another"),
    "a folder that cannot be": (["cache", "mine.yaml", "--set", "cache.folder=/proc/none"], "choose another"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_status_2(case, project):
    folder, _ = project
    text = (folder / "mine.yaml").read_text()
    (folder / "plain.yaml").write_text(text[text.index("data:") :])
    arguments, message = BAD[case]
    output = run(*arguments, cwd=folder, expect=2)
    assert message in output
    assert len(output.strip().splitlines()) == 1, output


def test_two_processes_fill_what_one_would(project):
    folder, _ = project
    run("cache", "mine.yaml", "--workers", "2", "--set", "cache.folder=shared", cwd=folder)
    assert contents(folder / "shared") == contents(folder / "store")


def test_a_killed_fill_goes_on(project):
    """SIGKILL in the middle: the same command writes what is missing and touches nothing that is there."""
    folder, _ = project
    small_shards = ["--set", "cache.shard_examples=4", "--set", "training.batch_size=4"]
    arguments = ["cache", "mine.yaml", "--set", "cache.folder=killed", *small_shards]
    process = subprocess.Popen(
        [sys.executable, "-c", "from kdiga.cli import main; main()", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 90
    while len(list((folder / "killed").rglob("0*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    done = {path.with_suffix("") for path in (folder / "killed").rglob("0*.json")}
    assert 3 <= len(done) < 360
    assert "is not complete" in run(
        *TRAIN, "--set", "cache.folder=killed", *small_shards, "--out", "early", cwd=folder, expect=2
    )
    stamps = {path: path.with_suffix(".npy").stat().st_mtime_ns for path in done}
    run(*arguments, cwd=folder)
    assert {path: path.with_suffix(".npy").stat().st_mtime_ns for path in done} == stamps
    assert len(list((folder / "killed").rglob("0*.json"))) == 360
    assert not list((folder / "killed").rglob("*.partial"))
