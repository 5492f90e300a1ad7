"""What commands leave behind and others read: run folders, evaluations, certificates, explanations, studies, curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kdiga.cli.compare import _pair
from kdiga.config.classes import check_classes
from kdiga.config.subject import earlier, recipe_of
from kdiga.report import write_page
from kdiga.report.comparison import compare_evaluations
from kdiga.report.files import find_results
from kdiga.study.cells import read_json
from kdiga.training.folder import read_result
from tests.fuzz.data import damaged_npz
from tests.fuzz.mutations import damaged_json, damaged_lines, damaged_yaml
from tests.fuzz.target import target
from tests.report.samples import certificate, evaluation, explanation, pictures, write_json, write_run, write_study

FEW = 12  # images


def write_folder(folder: Path) -> None:
    write_run(folder / "kd", "kd", epochs=2)
    result = json.loads((folder / "kd/result.json").read_text())
    scores = {"epoch": 1, "clean": 0.8, "robust": 0.3}
    write_json(folder / "kd/result.json", result | {"validation": {"best": scores, "last": scores}})


@target("run.folder", {
    "kd/config.yaml": damaged_yaml, "kd/result.json": damaged_json, "kd/journal.jsonl": damaged_lines,
}, write_folder)  # fmt: skip
def read_folder(folder: Path) -> None:
    recipe_of(str(folder / "kd"))
    check_classes("teacher", str(folder / "kd"), ["a", "b"])
    find_results([folder])
    read_json(folder / "kd/result.json")
    if (folder / "kd/result.json").exists():
        read_result(folder / "kd")


def page_of(folder: Path) -> str | None:
    """Make the page, and check what it says of names."""
    page = write_page([folder], folder / "page.html")
    text = page.path.read_text()
    assert "<script>alert" not in text.lower(), "a name became part of the page"
    return str(page.left_out[0].reason) if page.left_out else None


def result_target(name: str, files: dict[str, object], write: object) -> None:
    @target(name, files, write)
    def read(folder: Path) -> str | None:
        return page_of(folder)


result_target("result.evaluation", {"kd/evaluation.json": damaged_json},
              lambda folder: write_json(folder / "kd/evaluation.json", evaluation("kd", images=FEW)))  # fmt: skip
result_target("result.certificate", {"kd/certificate.json": damaged_json},
              lambda folder: write_json(folder / "kd/certificate.json", certificate("kd")))  # fmt: skip
result_target("result.study", {"study.json": damaged_json}, write_study)


def write_explained(folder: Path) -> None:
    write_json(folder / "explanation.json", explanation(["kd"]))
    np.savez(folder / "explanation.npz", **pictures(2, 2))


result_target("result.explanation", {"explanation.json": damaged_json, "explanation.npz": damaged_npz}, write_explained)


@target("result.compared", {"a/evaluation.json": damaged_json, "b/evaluation.json": damaged_json}, lambda folder: [
    write_json(folder / f"{place}/evaluation.json", evaluation(name, images=FEW))
    for place, name in (("a", "kd"), ("b", "tangent"))])  # fmt: skip
def read_compared(folder: Path) -> None:
    first, second = _pair(folder / "a", folder / "b")
    compare_evaluations(first, second)
    earlier(folder / "a/evaluation.json", {"data": "fashion-mnist"}, overwrite=False)
