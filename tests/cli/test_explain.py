"""``kdiga explain`` and ``kdiga suitable`` from end to end, on untrained runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import kdiga
from kdiga.model_state import seeded
from kdiga.models import save_model
from kdiga.workflows.explain import explain_runs
from kdiga.workflows.requests import ExplainRequest
from tests.cli.test_cli import run


def make_run(folder: Path, seed: int, **shape) -> Path:
    """Make a folder as a finished run leaves it, with fresh weights."""
    folder.mkdir(parents=True)
    with seeded(seed):
        model = kdiga.load_model("cnn-4", **{"in_channels": 1, "image_size": 8} | shape)
    save_model(model, folder / "best.safetensors")
    recipe = {"data": {"name": "digits"}, "threat": {"norm": "linf", "eps": 0.1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    for place, name in enumerate(("teacher", "kd/seed-0", "tangent/seed-0", "ard/seed-0")):
        make_run(folder / "runs" / name, place)
    make_run(folder / "runs" / "few", 9, num_classes=4)
    return folder


QUICK = ("--examples", "4", "--attack", "pgd-3", "--restarts", "1")
STUDENTS = ("runs/kd/seed-0", "runs/tangent/seed-0", "runs/ard/seed-0")


def test_an_explanation_is_printed_and_written(project):
    output = run("explain", "runs/teacher", *STUDENTS, *QUICK, "--pictures", "3", cwd=project)
    assert "4 models on the first 4 test images of digits, linf eps 0.1" in output
    assert "tangent/seed-0: its input gradients" in output
    assert "rank correlation" in output
    content = json.loads((project / "runs/explain/explanation.json").read_text())
    assert content["kind"] == "explanation"
    assert content["threat"] == {"norm": "linf", "eps": 0.1}
    assert (content["examples"], content["data"], content["seed"], len(content["models"])) == (4, "digits", 0, 4)
    for key in ("command", "data_fingerprint", "provenance", "ranking", "sentences", "reasons", "findings"):
        assert content[key], key
    for key in ("model", "which", "architecture", "parameters", "fingerprint", "role", "name", "clean", "robust"):
        assert key in content["models"][1], key
    with np.load(project / "runs/explain" / content["pictures"], allow_pickle=False) as arrays:
        assert arrays["images"].shape == (3, 1, 8, 8)
        assert arrays["gradient_3"].dtype == np.float32


def test_the_same_command_again_changes_nothing_and_another_is_refused(project):
    command = ("explain", "runs/teacher", STUDENTS[0], *QUICK, "--out", "again", "--pictures", "0")
    run(*command, cwd=project)
    first = json.loads((project / "again/explanation.json").read_text())
    run(*command, cwd=project)
    second = json.loads((project / "again/explanation.json").read_text())
    assert first.pop("provenance")["versions"] == second.pop("provenance")["versions"]
    assert first == second
    assert "pictures" not in first
    told = run(*command, "--eps", "0.2", cwd=project, expect=2)
    assert "holds other results: threat.eps is 0.1 there and 0.2 here" in told
    run(*command, "--eps", "0.2", "--overwrite", cwd=project)


def test_what_an_evaluation_has_found_is_not_attacked_again(project):
    run("evaluate", "runs/teacher", "--examples", "5", "--attacks", "pgd-4", cwd=project)
    kept = project / "runs/teacher/evaluation/best-linf-0.1-5/portions"
    before = {path: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    run(
        "explain",
        "runs/teacher",
        STUDENTS[0],
        "--examples",
        "5",
        "--attack",
        "pgd-4",
        "--restarts",
        "1",
        "--out",
        "reused",
        cwd=project,
    )
    assert len(before) == 1
    assert {path: path.stat().st_mtime_ns for path in kept.glob("*.json")} == before
    robust = json.loads((project / "reused/explanation.json").read_text())["models"][0]["robust"]["accuracy"]
    found = json.loads((kept.parent / "evaluation.json").read_text())["accuracy"]["pgd-4"]
    assert robust == found


def test_two_that_explain_the_same_do_not_write_into_each_others_files(project, monkeypatch):
    """The other one, with a process number of its own, writes all of its files while this one is at its pictures."""
    monkeypatch.chdir(project)
    question = ExplainRequest(
        teacher="runs/teacher", students=STUDENTS[:1], out=Path("both"), examples=4, attack="pgd-3", pictures=2
    )
    write, begun, told = np.savez_compressed, list[int](), list[object]()

    def interrupted(file, **arrays):
        begun.append(os.getpid())
        if len(begun) == 1:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: begun[0] + 1)
                told.append(explain_runs(question, command="kdiga explain").content)
        write(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    assert explain_runs(question, command="kdiga explain").content["ranking"] == told[0]["ranking"]
    assert len(set(begun)) == 2
    assert sorted(path.name for path in Path("both").iterdir() if path.is_file()) == [
        "explanation.json",
        "explanation.npz",
    ]


def test_what_does_not_fit_is_one_line(project):
    assert "images of 4 classes" in run("explain", "runs/teacher", "runs/few", *QUICK, cwd=project, expect=2)
    assert "student" in run("explain", "runs/teacher", cwd=project, expect=2).lower()
    told = run("explain", "runs/teacher", STUDENTS[0], "--attack", "clean", "--out", "refused", cwd=project, expect=2)
    assert "robustness needs one" in told
    assert "eps was 0" in run("suitable", "runs/teacher", "--eps", "0", cwd=project, expect=2)


def test_suitability_is_kept_in_the_run(project):
    output = run("suitable", "runs/teacher", "--examples", "20", "--restarts", "1", cwd=project)
    assert "preprocessing" in output
    assert "unsuitable" in output  # fresh weights guess
    content = json.loads((project / "runs/teacher/suitability/best-linf-0.1-20/suitability.json").read_text())
    assert (content["kind"], content["verdict"], content["examples"]) == ("suitability", "unsuitable", 20)
    assert content["model"] == "runs/teacher"
    again = run("suitable", "runs/teacher/best.safetensors", "--examples", "20", "--restarts", "1", cwd=project)
    assert "Results:" not in again
    run(
        "suitable", "runs/teacher/best.safetensors", "--examples", "20", "--restarts", "1", "--out", "kept", cwd=project
    )
    assert json.loads((project / "kept/suitability.json").read_text())["findings"] == content["findings"]
