"""``kdiga export`` from end to end, on a small run of digits."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import kdiga
from kdiga.export.file_measurements import Latency
from kdiga.statistics import clopper_pearson
from kdiga.workflows import export as exporting
from kdiga.workflows.export import UNFINISHED
from tests.cli.test_cli import RECIPES, run

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason=f"{package} is not installed; it is part of kdiga[onnx]")

FEW = ["--examples", "4", "--queries", "0", "--transfer", "none"]
SMALL = ["--examples", "40", "--score-examples", "8", "--queries", "20", "--transfer", "pgd-3"]
OURS = {"export.json", "model-card.md", "portions"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a trained run and its export to everything."""
    folder = tmp_path_factory.mktemp("project")
    quick = ["--set", "training.epochs=2", "--set", "training.validation_steps=2", "--set", "student.name=cnn-4"]
    run("train", str(RECIPES / "digits-teacher.yaml"), *quick, "--out", "small", cwd=folder)
    run("evaluate", "small", "--attacks", "clean,pgd-3", "--examples", "50", cwd=folder)
    run("certify", "small", "--method", "interval", "--examples", "5", cwd=folder)
    formats = "onnx,torch-export,safetensors,hf"
    told = run("export", "small", "--to", formats, "--int8", "--calibration", "50", *SMALL, cwd=folder)
    (folder / "told.txt").write_text(told)
    return folder


@pytest.fixture
def content(project):
    return json.loads((project / "small/export/best/export.json").read_text())


def test_what_is_written_and_told(project, content):
    found = {path.name for path in (project / "small/export/best").iterdir()}
    assert found == OURS | {
        "model.onnx",
        "model.int8.onnx",
        "model.pt2",
        "model.safetensors",
        "hf",
        "robustbench_model.py",
        "robustbench.json",
    }
    assert {path.name for path in (project / "small/export/best/hf").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    told = (project / "told.txt").read_text()
    for word in ("onnx-int8", "PGD-3 transferred", "Square-20", "worst", "ms, batch 64", "the first 40 test images"):
        assert word in told
    assert content["kind"] == "export"
    assert content["command"].startswith("kdiga export small --to onnx")
    assert content["provenance"]["versions"]["onnxruntime"]
    assert (content["calibration"], content["measured"]["queries"]) == (50, 20)


def test_figures_are_of_the_files(project, content):
    model = kdiga.load_model(project / "small")
    data = kdiga.load_data("digits").test
    images, labels = (torch.cat(parts) for parts in zip(*data.batches(examples=40), strict=True))
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).tolist()
    assert list(content["formats"]) == ["pytorch", "onnx", "onnx-int8", "torch-export", "safetensors", "hf"]
    for name in ("pytorch", "onnx", "torch-export", "hf"):
        one = content["formats"][name]
        assert one["correct"]["clean"] == [int(value) for value in right]
        assert one["interval_95"]["clean"] == list(clopper_pearson(sum(right), 40))
    for name, one in content["formats"].items():
        assert one["same_as"] == ("pytorch" if name in ("safetensors", "hf") else "")
        assert len(one["correct"]["square-20"]) == len(one["correct"]["worst"]) == 8
        parts = zip(*(one["correct"][attack] for attack in ("clean", "transfer pgd-3", "square-20")), strict=False)
        assert one["correct"]["worst"] == [int(all(part)) for part in parts]
        assert 0 < one["latency_ms"]["1"]["low"] <= one["latency_ms"]["1"]["median"]
        if name not in ("pytorch", "hf"):
            assert one["bytes"] == (project / "small/export/best" / one["file"]).stat().st_size
    assert content["formats"]["onnx"]["agreement"]["largest_difference"] < 1e-4


def test_the_model_card_says_what_it_has_to(project, content):
    card = (project / "small/export/best/model-card.md").read_text()
    evaluated = json.loads(next((project / "small/evaluation").rglob("evaluation.json")).read_text())
    for phrase in (
        "# small",
        "cnn-4",
        "linf",
        "chosen by whoever publishes",
        "## Loading",
        "onnxruntime.InferenceSession",
        f"{100 * evaluated['accuracy']['pgd-3']:.1f} %",
        "kdiga evaluate small --attacks clean,pgd-3",
        "interval (proved)",
        "weaker than a white-box attack",
        "name: digits",
        "method `pgd-at`",
        "without a teacher",
        "Fingerprint",
        content["fingerprint"],
        "kdiga export small",
    ):
        assert phrase in card, phrase
    for name, one in content["formats"].items():
        assert f"| {name} |" in card
        assert f"{100 * one['accuracy']['clean']:.1f} %" in card
    readme = (project / "small/export/best/hf/README.md").read_text()
    assert readme.startswith("---\n# license: to be chosen")
    assert yaml.safe_load(readme.split("---")[1])["library_name"] == "kdiga"
    assert "onnxruntime.InferenceSession" not in readme
    assert kdiga.load_model(project / "small/export/best/hf/model.safetensors").spec.takes == (1, 8, 10)


def test_robustbench_info_has_what_was_measured(project, content):
    info = json.loads((project / "small/export/best/robustbench.json").read_text())
    clean = content["formats"]["torch-export"]["accuracy"]["clean"]
    assert float(info["clean_acc"]) == pytest.approx(100 * clean, abs=0.01)
    assert info["autoattack_acc"] is None  # nobody ran it


def test_both_accuracies_of_robustbench_info_are_of_one_evaluation(project, tmp_path):
    copy = Path(shutil.copytree(project / "small", tmp_path / "small"))
    path = next((copy / "evaluation").rglob("evaluation.json"))
    evaluated = json.loads(path.read_text())
    for attack, right in (("clean", 45), ("autoattack", 30)):
        evaluated["correct"][attack] = [1] * right + [0] * (50 - right)
        evaluated["accuracy"][attack], evaluated["interval_95"][attack] = right / 50, list(clopper_pearson(right, 50))
    path.write_text(json.dumps(evaluated))
    run("export", "small", "--to", "torch-export", "--out", "out", *FEW, cwd=tmp_path)
    info = json.loads((tmp_path / "out/robustbench.json").read_text())
    assert (info["clean_acc"], info["autoattack_acc"]) == ("90.0", "60.0")


def test_the_report_shows_it(project):
    run("report", ".", "--out", "page.html", cwd=project)
    page = (project / "page.html").read_text()
    assert "Exported files" in page
    assert "Square-20" in page
    assert "the same as pytorch" in page


def test_a_finished_export_is_not_replaced_by_accident_and_formats_are_added(project):
    told = run("export", "small", "--to", "onnx", *SMALL, "--out", "one", cwd=project)
    assert "/one\n" in told
    before = (project / "one/model.onnx").read_bytes()
    again = run("export", "small", "--to", "onnx,hf", *SMALL, "--out", "one", cwd=project, expect=2)
    assert "already holds an export (model.onnx); replace it with --overwrite" in again
    other = run("export", "small", "--to", "hf", *SMALL, "--seed", "1", "--out", "one", cwd=project, expect=2)
    assert "seed is 0 there and 1 here" in other
    assert (project / "one/model.onnx").read_bytes() == before
    run("export", "small", "--to", "hf", *SMALL, "--out", "one", cwd=project)
    assert set(json.loads((project / "one/export.json").read_text())["formats"]) == {"pytorch", "onnx", "hf"}
    assert "| onnx |" in (project / "one/hf/README.md").read_text()
    (project / "one/mine.txt").write_text("keep")
    run("export", "small", "--to", "safetensors", *SMALL, "--seed", "1", "--out", "one", "--overwrite", cwd=project)
    assert {path.name for path in (project / "one").iterdir()} == OURS | {"model.safetensors", "mine.txt"}
    assert set(json.loads((project / "one/export.json").read_text())["formats"]) == {"pytorch", "safetensors"}


def test_all_times_of_a_folder_are_of_the_last_call(project, monkeypatch):
    def export(to: str, *more: str, milliseconds: float) -> dict[str, float | None]:
        took = {1: Latency(milliseconds, milliseconds, milliseconds, 2)}
        monkeypatch.setattr(exporting, "latencies", lambda calls, _: dict.fromkeys(calls, took))
        run("export", "small", "--to", to, *more, *FEW, "--out", "timed", cwd=project)
        formats = json.loads((project / "timed/export.json").read_text())["formats"]
        return {name: one["latency_ms"].get("1", {}).get("median") for name, one in formats.items()}

    first = ["pytorch", "onnx", "onnx-int8", "safetensors"]
    assert export("onnx,safetensors", "--int8", milliseconds=1) == dict.fromkeys(first, 1)
    assert export("torch-export", milliseconds=2) == dict.fromkeys([*first, "torch-export"], 2)
    (project / "timed/model.onnx").write_bytes(b"another")
    (project / "timed/model.pt2").unlink()
    not_timed = {"onnx": None, "torch-export": None}
    assert export("hf", milliseconds=3) == dict.fromkeys([*first, "hf"], 3) | not_timed


def test_the_number_of_calibration_images_stays_while_the_int8_file_does(project):
    def export(*more: str) -> int | None:
        run("export", "small", *more, *FEW, "--out", "calibrated", cwd=project)
        return json.loads((project / "calibrated/export.json").read_text())["calibration"]

    assert export("--to", "safetensors") is None
    assert export("--to", "onnx", "--int8", "--calibration", "40") == 40
    assert export("--to", "hf") == 40
    assert export("--to", "hf", "--overwrite", "--seed", "1") is None


def test_an_interrupted_export_goes_on(project, monkeypatch):
    arguments = ["export", "small", "--to", "safetensors", *SMALL, "--out", "cut"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "attack_by_queries", interrupt)
        run(*arguments, cwd=project, expect=130)
    assert (project / "cut" / UNFINISHED).is_file()
    assert not (project / "cut/export.json").exists()
    work_units = {path.name: path.stat().st_mtime_ns for path in (project / "cut/portions").glob("*.json")}
    assert work_units
    assert "already holds" in run(*arguments, "--seed", "3", cwd=project, expect=2)
    run(*arguments, cwd=project)
    assert not (project / "cut" / UNFINISHED).exists()
    assert all((project / "cut/portions" / name).stat().st_mtime_ns == at for name, at in work_units.items())


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


BAD = {
    "unknown format": (["small", "--to", "onxx"], "did you mean onnx"),
    "no run": (["nowhere", "--to", "hf", "--data", "digits", "--out", "x"], "is not known"),
    "a file without a folder": (["small/best.safetensors", "--to", "hf"], "give the folder of the export with --out"),
    "int8 alone": (["small", "--to", "hf", "--int8"], "--int8 needs the onnx format"),
    "unknown attack": (["small", "--to", "hf", "--transfer", "pdg-3"], "did you mean pgd"),
    "no examples": (["small", "--to", "hf", "--examples", "0"], "examples was 0"),
    "too much calibration": (["small", "--to", "onnx", "--int8", "--calibration", "100000", "--out", "x"], "100000"),
    "other images": (["small", "--to", "hf", "--data", "nowhere", "--out", "x"], "data set 'nowhere'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_line(project, name):
    arguments, phrase = BAD[name]
    told = run("export", *arguments, cwd=project, expect=2)
    assert phrase in told
    assert told.count("\n") == 1
    assert not list(Path(project).glob("x/model*"))


def test_a_missing_package_is_told_before_anything_is_loaded(project, monkeypatch):
    monkeypatch.setattr("kdiga.export.formats.find_spec", lambda name: None)
    told = run("export", "small", "--to", "onnx", cwd=project, expect=2)
    assert "pip install 'kdiga[onnx]'" in told
    assert told.count("\n") == 1


def test_the_command_line_starts_without_the_exporters(project):
    import subprocess

    slow = ("torch", "onnx", "onnxruntime")
    code = f"import sys, kdiga.cli.export; print([name for name in {slow} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_files_are_attacked_in_l1(project):
    printed = run(
        "export", "small", "--to", "safetensors", "--norm", "l1", "--eps", "2", "--out", "l1", *SMALL, cwd=project
    )
    assert "l1 eps 2" in printed
    written = json.loads((project / "l1/export.json").read_text())
    assert written["threat"] == {"norm": "l1", "eps": 2.0}
    assert set(written["formats"]) == {"pytorch", "safetensors"}
