"""Whether a machine is ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kdiga.cli import doctor
from tests.cli.test_cli import run


def test_it_says_what_there_is(tmp_path):
    told = run("doctor", "--json", "found.json", cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["problems"] == []
    assert found["versions"]["torch"]["version"] in told
    assert found["data"]["digits"] == "scikit-learn"
    assert found["data"]["cifar10"] is None
    assert "Ready." in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json"]  # it leaves nothing behind
    assert set(found["extras"]) == set(doctor.EXTRAS)
    assert all(
        ("pip install" in (one["get"] or "")) == (None in one["versions"].values()) for one in found["extras"].values()
    )


def test_a_broken_pytorch_is_status_1_and_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: wrong ELF class')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "kdiga", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 1
    assert "problem: torch cannot be imported (libtorch.so: wrong ELF class); run pip install" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert "Ready." not in done.stdout


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    told = run("doctor", "--json", "-", cwd=tmp_path, expect=1)
    assert "cannot be written; change to another" in told


@pytest.mark.parametrize(
    ("cores", "load", "own", "advice"),
    [(8, 0.2, 8, None), (8, 6.1, 8, 2), (2, 2.4, 2, 1), (2, 2.4, 1, None), (64, 0.0, 32, None)],
)
def test_more_threads_than_idle_cores_are_warned_of(cores, load, own, advice):
    warnings = doctor.threads(cores, load, own)["warnings"]
    assert len(warnings) == (advice is not None)
    assert advice is None or warnings[0].endswith(f"Set OMP_NUM_THREADS={advice}.")


def test_a_containers_quota_counts(tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    assert doctor.usable_cores(quota) == 1
    quota.write_text("max 100000\n")
    whole = doctor.usable_cores(quota)
    assert whole == doctor.usable_cores(tmp_path / "none") >= 1
