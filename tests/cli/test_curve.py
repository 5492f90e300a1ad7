"""``kdiga curve`` as a user meets it."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_cli import run

PRETRAINED = """\
data: {name: digits, train_examples: 400}
student: cnn-4
method: ce
threat: {norm: linf, eps: 0.1}
training: {epochs: 3, batch_size: 16, lr: 1e-2, validation_steps: 1}
"""
CURVE = PRETRAINED.replace("student: cnn-4", "student: runs/start\nteacher: runs/start").replace("ce", "tangent", 1)
ASKED = ("curve", "curve.yaml", "--over", "method.gap_weight=0,1", "--attacks", "pgd-2", "--examples", "40")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a pre-trained student, a recipe that starts from it, and its curve."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "start.yaml").write_text(PRETRAINED)
    (folder / "curve.yaml").write_text(CURVE)
    run("train", "start.yaml", cwd=folder)
    asked = (*ASKED, "--confirm", "fgsm", "--confirm-examples", "20", "--at-most", "100", "--workers", "1")
    return folder, run(*asked, cwd=folder)


def test_it_tells_the_answer_and_leaves_files(project):
    folder, output = project
    assert "3 runs, 0 finished, in runs/curve" in output
    assert [f"{n}/3" in output for n in (1, 2, 3)] == [True] * 3
    assert "start" in output
    assert "validation clean accuracy" in output
    content = json.loads((folder / "runs/curve/curve.json").read_text())
    assert content["command"].startswith("kdiga curve curve.yaml --over method.gap_weight=0,1")
    assert content["start"]["runs"][0]["confirmed"]["examples"]["fgsm"] == 20
    assert "20 test images of digits" in run(
        "evaluate", "runs/curve/start/seed-0", "--attacks", "clean", "--examples", "20", cwd=folder
    )


def test_it_is_not_run_again(project):
    folder, _ = project
    assert "3 runs, 3 finished" in run(*ASKED, "--confirm", "none", cwd=folder)
    (folder / "runs/curve/curve.md").unlink()
    assert "chosen" in run(*ASKED, "--report", "--at-most", "100", cwd=folder)
    assert (folder / "runs/curve/curve.md").is_file()


def test_dry_run_lists_and_writes_nothing(project):
    folder, _ = project
    output = run(*ASKED, "--seeds", "0,3", "--out", "nowhere", "--dry-run", cwd=folder)
    assert "gap_weight-1/seed-3" in output
    assert not (folder / "nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("start.yaml", "--over", "method.x=1"), "x: unknown key"),
        (("curve.yaml", "--over", "training.lr=1"), "write it as method.KEY=VALUE"),
        (("curve.yaml", "--over", "method.gap_weight=1", "--seeds", "a"), "--seeds was 'a'; give whole numbers"),
        (("curve.yaml", "--over", "method.gap_weight=1", "--attacks", "pdg-2"), "pdg-2"),
        (("curve.yaml", "--over", "method.gap_weight=1", "--confirm", "auto"), "'auto'"),
        (("curve.yaml",), "--over"),
    ],
)
def test_bad_input_is_told_in_a_line(arguments, message, project):
    folder, _ = project
    output = run("curve", *arguments, cwd=folder, expect=2)
    assert message in output
    assert len(output.strip().splitlines()) == 1
