"""``kdiga claims`` as a user meets it."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import timm

from kdiga.models.classifier import Classifier, ModelSpec, WeightsOrigin
from kdiga.models.sources.robustbench_zoo import RobustBench
from tests.cli.test_cli import run
from tests.data.pictures import picture
from tests.experiments.claims.conftest import TINY, pgd_for_autoattack

RECIPE = TINY.replace("  tangent: tangent\n", "").replace("[kdiga, tangent]", "[kdiga]")
ASKED = ("claims", "tiny.yaml", "--workers", "1")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a finished test of the claims, stopped once on the way, and what either command printed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tiny.yaml").write_text(RECIPE)
    with pgd_for_autoattack():
        stopped = run(*ASKED, "--stop-after", "0", cwd=folder)
        assert json.loads((folder / "runs/tiny/claims.json").read_text())["done"] == 0
        return folder, stopped, run(*ASKED, "--page", "docs/tested.md", cwd=folder)


def test_a_stop_says_how_to_go_on(project):
    _, stopped, _ = project
    assert "4 runs, 0 finished, in runs/tiny" in stopped
    assert "4 of 4 runs are left; the same command continues." in stopped
    assert "Undecided for kdiga. 1 pair: 0 supported, 0 contradicted, 1 undecided." in stopped
    assert "Page: runs/tiny/claims.md" in stopped


def test_the_same_command_completes_it(project):
    folder, _, output = project
    assert [f"{n}/4" in output for n in (2, 3, 4)] == [True] * 3
    assert "are left" not in output
    for name in "abcde":
        assert f"\n{name}. " in f"\n{output}"
    assert "c. Robustness goes into a pre-trained student without loss of clean accuracy.\n   Not tested." in output
    content = json.loads((folder / "runs/tiny/claims.json").read_text())
    assert (content["done"], content["command"]) == (4, "kdiga claims tiny.yaml")
    assert len(list((folder / "results/tiny").glob("*.json"))) == 4


def test_a_page_elsewhere_with_its_pictures(project):
    folder, _, output = project
    assert "Page: docs/tested.md" in output
    page = (folder / "docs/tested.md").read_text()
    for name in "abde":
        assert f"![Claim {name}](images/tested-{name}.png)" in page
        assert (folder / f"docs/images/tested-{name}.png").stat().st_size > 5000
        assert (folder / f"runs/tiny/claims-{name}.png").stat().st_size > 5000
    own = (folder / "runs/tiny/claims.md").read_text()
    assert own == page.replace("images/tested-", "claims-")


def test_report_rewrites_the_page_and_runs_nothing(project):
    folder, _, _ = project
    before = (folder / "runs/tiny/claims.md").read_text()
    (folder / "runs/tiny/claims.md").unlink()
    output = run("claims", "tiny.yaml", "--report", cwd=folder)
    assert "4/4" not in output
    assert "Page: runs/tiny/claims.md" in output
    assert (folder / "runs/tiny/claims.md").read_text() == before
    # Of nothing, it says so of everything.
    (folder / "empty").mkdir(exist_ok=True)
    output = run("claims", "tiny.yaml", "--report", "--records", "empty", "--out", "none", cwd=folder)
    assert "4 of 4 runs are left" in output
    assert "**Undecided for kdiga. " in (folder / "none/claims.md").read_text()


def test_dry_run_lists_and_writes_nothing(project, tmp_path):
    folder, _, _ = project
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    output = run("claims", "tiny.yaml", "--dry-run", cwd=tmp_path)
    assert "# 4 runs; would write to runs/tiny" in output
    line = next(line for line in output.splitlines() if "kdiga/robust-to-small/seed-0" in line)
    for part in (" kdiga ", " 6 ", "teachers/robust", "clean, autoattack, explanation, certificate", "open"):
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    # What is kept counts as done, wherever it would be brought back to.
    shutil.copytree(folder / "results/tiny", tmp_path / "other")
    output = run("claims", "tiny.yaml", "--dry-run", "--records", "other", cwd=tmp_path)
    assert sum(" finished " in line for line in output.splitlines()) == 4
    assert not (tmp_path / "runs").exists()
    earlier = run("claims", "tiny.yaml", "--dry-run", "--kept", "other", cwd=tmp_path)
    assert earlier == f"--kept is now called --records, and will be removed.\n{output}"
    (tmp_path / "other").rename(tmp_path / "tiny.cells")  # where earlier versions wrote them
    assert run("claims", "tiny.yaml", "--dry-run", cwd=tmp_path) == output
    (tmp_path / "tiny.cells").rename(tmp_path / "other")
    output = run("claims", "tiny.yaml", "--dry-run", "--records", "other", "--set", "certify.samples=40", cwd=tmp_path)
    assert sum(" finished " in line for line in output.splitlines()) == 2


def test_a_start_in_another_folder_takes_what_is_kept(project):
    folder, _, _ = project
    output = run(*ASKED, "--out", "elsewhere", cwd=folder)
    assert "4 runs, 4 finished, in elsewhere" in output
    one, two = (json.loads((folder / name / "claims.json").read_text()) for name in ("runs/tiny", "elsewhere"))
    assert one["claims"] == two["claims"]


def test_a_teacher_that_is_not_robust_ends_it(tmp_path):
    (tmp_path / "weak.yaml").write_text(
        RECIPE.replace("{name: pgd-at, steps: 2}", "ce").replace("eps: 0.05", "eps: 0.5")
    )
    with pgd_for_autoattack():
        output = run("claims", "weak.yaml", "--workers", "1", cwd=tmp_path, expect=2)
        told = output.strip().splitlines()[-1]
        assert told.startswith("kdiga: teacher robust is not robust: 0.0 % of 8 test images")
        assert told.endswith("--despite-findings.")
        assert not (tmp_path / "runs/weak/kd").exists()
        run("claims", "weak.yaml", "--workers", "1", "--despite-findings", cwd=tmp_path)
    assert (tmp_path / "runs/weak/kd").exists()


BAD = {
    "no file": (("none.yaml",), "cannot be read"),
    "unknown key": (("tiny.yaml", "--set", "sedes=[1]"), "did you mean seeds"),
    "bad recipe": (("tiny.yaml", "--set", "judged=[kd-iga]"), "did you mean kdiga"),
    "unknown model": (
        ("tiny.yaml", "--out", "x", "--records", "x", "--set", "students.small=cnn4"),
        "did you mean cnn-4",
    ),
    "another configuration": (("tiny.yaml", "--set", "methods.kd.temperature=9"), "9.0 here"),
    "a study": (("study.yaml",), "run it with `kdiga study`"),
    "no time": (("tiny.yaml", "--stop-after", "-1"), "--stop-after"),
    "damaged": (("tiny.yaml", "--records", "bad", "--out", "y"), "is not a record of a finished run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_status_2(case, project):
    folder, _, _ = project
    (folder / "study.yaml").write_text("base: {data: digits}\nmethods: {kd: kd}\n")
    (folder / "bad").mkdir(exist_ok=True)
    (folder / "bad/ce--small--seed-0.json").write_text("{")
    arguments, message = BAD[case]
    output = run("claims", *arguments, cwd=folder, expect=2)
    assert message in output
    assert len(output.strip().splitlines()) == 1, output
    assert "Traceback" not in output


@pytest.mark.slow
def test_the_recipe_for_imagenet_is_checked_and_listed(tmp_path, monkeypatch):
    """All of it but the fetched weights, in whose place networks of the same shapes stand."""
    picture(tmp_path / "one.jpg", (30, 20), 1)
    content = (tmp_path / "one.jpg").read_bytes()
    info = timm.data.ImageNetInfo("imagenet-1k")
    for part, name in product(("train", "val"), info.label_names()):
        (tmp_path / "imagenet" / part / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "imagenet" / part / name / f"{number}.JPEG").write_bytes(content)

    def stand_in(_source, _request, name):
        network = timm.create_model("resnet18", num_classes=1000)
        return Classifier(
            ModelSpec(f"robustbench:{name}", 1000, 3, 224), network, WeightsOrigin(name, trained=True)
        ).eval()

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *given, **more: real(*given, **more | {"pretrained": False}))
    monkeypatch.setattr(RobustBench, "load", stand_in)
    recipe = Path(__file__).parents[2] / "recipes/claims-imagenet.yaml"
    listed = run(
        "claims", str(recipe), "--set", f"data.root={tmp_path}", "--dry-run", "--json", "plan.json", cwd=tmp_path
    )
    runs = json.loads((tmp_path / "plan.json").read_text())["runs"]
    assert f"# {len(runs)} runs" in listed
    assert {one["state"] for one in runs} == {"open"}
    students = {one["folder"].split("/")[1] for one in runs if one["folder"].startswith("kdiga/")}
    assert {"resnet50-to-vit-tiny", "xcit-s-to-mobilenet-v3", "resnet50-to-deit-tiny"} <= students
    assert not (tmp_path / "runs").exists()
