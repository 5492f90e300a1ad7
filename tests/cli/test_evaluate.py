"""`kdiga evaluate` and `kdiga compare`: results that stay, grow, and are never mixed with others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import RECIPES, run

SMALL = ("--set", "training.epochs=1", "--set", "student=cnn-4", "--set", "method=ce")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two quick runs on digits, under one threat model."""
    path = tmp_path_factory.mktemp("judged")
    for seed in (0, 1):
        run(
            "train",
            str(RECIPES / "digits-teacher.yaml"),
            *SMALL,
            "--set",
            f"training.seed={seed}",
            "--out",
            f"run-{seed}",
            cwd=path,
        )
    return path


def evaluation(folder: Path, name: str, examples: int = 30) -> dict:
    return json.loads((folder / name / f"evaluation/best-linf-0.1-{examples}/evaluation.json").read_text())


def test_a_runs_results_stay_in_its_folder_and_grow(folder):
    ask = ("evaluate", "run-0", "--examples", "30", "--attacks")
    run(*ask, "fgsm", cwd=folder)
    output = run(*ask, "pgd-3x2", "--sweep", "0.05,1/5", cwd=folder)
    assert f"Results: {(folder / 'run-0/evaluation/best-linf-0.1-30').as_uri()}" in output
    assert "after start 2" in output
    found = evaluation(folder, "run-0")
    assert list(found["accuracy"]) == ["clean", "fgsm", "pgd-3x2"]
    assert found["sweep"]["eps"] == [0.0, 0.05, 0.2]
    assert found["sweep"]["accuracy"][0] == found["accuracy"]["clean"]
    assert (found["kind"], found["which"], found["data"]) == ("evaluation", "best", "digits")
    assert found["command"].startswith("kdiga evaluate run-0")
    assert len(found["fingerprint"]) == 64
    run(*ask, "fgsm", cwd=folder)
    assert list(evaluation(folder, "run-0")["accuracy"]) == ["clean", "fgsm", "pgd-3x2"], "nothing is lost"
    found = evaluation(folder, "run-0")
    assert found["sweep"]["eps"] == [0.0, 0.05, 0.2]
    (earlier,) = found["earlier"]
    assert ("--attacks pgd-3x2" in earlier["command"], "--attacks fgsm" in found["command"]) == (True, True)
    assert earlier["provenance"]["hardware"] == found["provenance"]["hardware"]
    run("report", "run-0", "--out", "page.html", cwd=folder)
    page = (folder / "page.html").read_text()
    assert "Reproduce: 3 commands" in page  # those of the training and of two evaluations
    assert all(f"<span>--attacks</span> <span>{attack}</span>" in page for attack in ("fgsm", "pgd-3x2"))


def test_results_of_something_else_are_not_touched(folder):
    ask = ("evaluate", "run-1", "--attacks", "fgsm", "--out", "mine")
    run(*ask, "--examples", "12", cwd=folder)
    before = (folder / "mine/evaluation.json").read_text()
    other = (
        ("run-0", "--examples", "12", "fingerprint is "),
        ("run-1", "--examples", "13", "examples is 12 there and 13 here"),
        ("run-1", "--eps", "0.2", "threat.eps is 0.1 there and 0.2 here"),
        ("run-1", "--seed", "1", "seed is 0 there and 1 here"),
    )
    for model, option, value, message in other:
        again = ("evaluate", model, "--attacks", "fgsm", "--out", "mine", "--examples", "12", option, value)
        refused = run(*again, cwd=folder, expect=2)
        assert message in refused
        assert "choose another --out" in refused
    assert (folder / "mine/evaluation.json").read_text() == before
    run(*ask, "--examples", "13", "--overwrite", cwd=folder)
    assert json.loads((folder / "mine/evaluation.json").read_text())["examples"] == 13
    (folder / "mine/evaluation.json").write_text("no json")
    assert "it cannot be read" in run(*ask, "--examples", "12", cwd=folder, expect=2)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(folder):
    (folder / "file").write_text("")
    refused = run(
        "evaluate", "run-0", "--examples", "5", "--attacks", "fgsm", "--out", "file/below", cwd=folder, expect=2
    )
    assert "choose another --out" in refused


def test_checks_are_made_where_asked_for_or_where_autoattack_runs_and_stay(folder):
    ask = ("evaluate", "run-0", "--examples", "90", "--attacks", "fgsm")
    assert "checks for masked" not in run(*ask, cwd=folder)
    output = run(*ask, "--teacher", "run-1", "--transfer-from", "zoo:digits-teacher", "--corruptions", cwd=folder)
    assert "checks for masked gradients: " in output
    assert "common corruptions" in output
    content = evaluation(folder, "run-0", 90)
    assert len(content["findings"]) > 10
    transfer = next(finding for finding in content["findings"] if finding["name"] == "transfer")
    assert transfer["verdict"] != "skipped"
    assert set(transfer["evidence"]["sources"]) == {"teacher", "zoo:digits-teacher"}
    assert 0 <= content["corruptions"]["worst_class"]["accuracy"] <= content["corruptions"]["mean"] <= 1
    run(*ask, cwd=folder)
    again = evaluation(folder, "run-0", 90)
    assert (again["findings"], again["corruptions"]) == (content["findings"], content["corruptions"]), "nothing is lost"
    refused = run(*ask, "--no-checks", "--transfer-from", "run-1", cwd=folder, expect=2)
    assert "--transfer-from was given with --no-checks" in refused


def test_l1_is_for_evaluation(folder):
    asked = ("--norm", "l1", "--eps", "2", "--examples", "20", "--attacks", "fgsm", "--out", "l1")
    run("evaluate", "run-0", *asked, cwd=folder)
    found = json.loads((folder / "l1/evaluation.json").read_text())
    assert found["threat"] == {"norm": "l1", "eps": 2.0}
    assert found["accuracy"]["fgsm"] < found["accuracy"]["clean"]
    recipe = str(RECIPES / "digits-teacher.yaml")
    refused = run("train", recipe, "--set", "threat.norm=l1", "--dry-run", cwd=folder, expect=2)
    assert "was 'l1', which only kdiga evaluate accepts; train under linf or l2" in refused


def test_workers_give_the_same_answer(folder):
    ask = ("evaluate", "run-0", "--examples", "40", "--attacks", "pgd-10x2,cw-10", "--batch-size", "10")
    run(*ask, "--out", "alone", cwd=folder)
    run(*ask, "--out", "together", "--workers", "2", cwd=folder)
    alone, together = (json.loads((folder / out / "evaluation.json").read_text()) for out in ("alone", "together"))
    assert alone["correct"] == together["correct"]
    assert alone["stages"] == together["stages"]


def test_a_killed_evaluation_continues_to_the_same_answer(folder):
    ask = ["evaluate", "run-1", "--examples", "60", "--attacks", "pgd-100x2,cw-100", "--batch-size", "10", "--out"]
    run(*ask, "whole", cwd=folder)
    program = [sys.executable, "-c", "from kdiga.cli import main; main()", *ask, "killed"]
    process = subprocess.Popen(program, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = folder / "killed/portions"
    while process.poll() is None and len(list(kept.glob("*.json"))) < 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "killed/evaluation.json").exists()
    run(*ask, "killed", cwd=folder)
    whole, killed = (json.loads((folder / out / "evaluation.json").read_text()) for out in ("whole", "killed"))
    assert whole["correct"] == killed["correct"]


def test_compare_says_what_the_images_allow(folder):
    for name in ("run-0", "run-1"):
        run("evaluate", name, "--examples", "30", "--attacks", "fgsm", cwd=folder)
    place = "run-{}/evaluation/best-linf-0.1-30"
    output = run("compare", place.format(0), place.format(1), "--json", "out/compared.json", cwd=folder)
    assert "30 test images of digits" in output
    rows = json.loads((folder / "out/compared.json").read_text())["attacks"]
    one, two = (evaluation(folder, name)["correct"]["fgsm"] for name in ("run-0", "run-1"))
    fgsm = next(row for row in rows if row["attack"] == "fgsm")
    assert fgsm["difference"] == pytest.approx((sum(one) - sum(two)) / 30)
    assert fgsm["interval"][0] <= fgsm["difference"] <= fgsm["interval"][1]
    assert fgsm["only_first"] == sum(a and not b for a, b in zip(one, two, strict=True))
    three = run("compare", "run-0", "run-1", "run-0", "--json", "out/three.json", cwd=folder)
    assert "only run-0 correct" in three
    assert len(json.loads((folder / "out/three.json").read_text())["comparisons"]) == 2
    same = run("compare", place.format(0), place.format(0), cwd=folder)
    assert "are not significantly different on 30 images; the difference is 0.0 points" in same
    run("evaluate", "run-1", "--examples", "31", "--attacks", "fgsm", cwd=folder)
    assert "90 test images" in run("compare", "run-0", "run-0", cwd=folder), "of several, that on the most images"
    assert "30 test images" in run("compare", "run-0", "run-1", cwd=folder), "and on the same"


def test_what_cannot_be_compared_is_told(folder):
    run("evaluate", "run-0", "--examples", "20", "--attacks", "fgsm", "--out", "twenty", cwd=folder)
    run("evaluate", "run-0", "--examples", "20", "--attacks", "fgsm", "--eps", "0.2", "--out", "large", cwd=folder)
    run("evaluate", "run-0", "--examples", "20", "--attacks", "fgsm", "--out", "nest/a", cwd=folder)
    run("evaluate", "run-0", "--examples", "20", "--attacks", "fgsm", "--out", "nest/b", cwd=folder)
    run("evaluate", "run-0", "--examples", "20", "--attacks", "fgsm", "--out", "several/a", cwd=folder)
    run("evaluate", "run-0", "--examples", "9", "--attacks", "fgsm", "--eps", "1/5", "--out", "several/b", cwd=folder)
    (folder / "empty").mkdir()
    (folder / "odd.json").write_text('{"model": 3}')
    for pair, message in {
        ("twenty", "large"): "differ in threat",
        ("twenty", "mine-not"): "does not exist; pass a run evaluated with `kdiga evaluate`",
        ("twenty",): "give the models to compare it with",
        ("twenty", "empty"): "make one with `kdiga evaluate",
        ("odd.json", "twenty"): "is not an evaluation (data is missing)",
        ("nest", "large"): "hold 2 and 1 evaluations, none on the same images",
        ("several", "several"): "pairs under 2 threat models; give the folder of one evaluation of each",
    }.items():
        assert message in run("compare", *pair, cwd=folder, expect=2), pair


def test_sweep_values_are_checked_before_anything_is_loaded(folder):
    assert "is not a number" in run("evaluate", "run-0", "--sweep", "0.1,x", cwd=folder, expect=2)
    assert "did you mean pgd-20" in run(
        "evaluate", "run-0", "--sweep", "auto", "--sweep-attack", "pgd20", cwd=folder, expect=2
    )
    assert "name an attack that uses eps" in run(
        "evaluate", "run-0", "--sweep", "auto", "--sweep-attack", "clean", cwd=folder, expect=2
    )
    assert "Linf eps is in [0, 1]" in run("evaluate", "run-0", "--sweep", "0.1,1.5", cwd=folder, expect=2)
    ask = ("--eps", "0.5", "--attacks", "clean", "--examples", "20", "--out", "wide")
    run("evaluate", "run-0", *ask, "--sweep", "auto", "--sweep-attack", "fgsm", cwd=folder)
    found = json.loads((folder / "wide/evaluation.json").read_text())
    assert found["sweep"]["eps"] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0]
