"""What commands leave behind and others read: run folders, evaluations, certificates, explanations, studies, curves."""

from __future__ import annotations

import functools
import json
import math
import shutil
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from kdiga.errors import InputError
from kdiga.experiments.board import read_json
from kdiga.report import page as report_page
from kdiga.report import write_page
from kdiga.results.folders import Results, find_results
from kdiga.runs.run_folder import read_result
from kdiga.workflows.compare import compare
from kdiga.workflows.loaded_model import recipe_of
from kdiga.workflows.prepare import check_classes
from kdiga.workflows.result_folder import check_earlier_result
from tests.fuzz.data import damaged_npz
from tests.fuzz.mutations import damaged_json, damaged_lines, damaged_yaml
from tests.fuzz.oracles import check_leaves, json_of, yaml_of
from tests.fuzz.target import target
from tests.report.samples import (
    about,
    certificate,
    evaluation,
    explanation,
    header,
    pictures,
    write_json,
    write_run,
    write_study,
)

FEW = 12  # images
DRAWN = 40  # one page in so many has its figures drawn, which takes nearly all of a page's time


def write_folder(folder: Path) -> None:
    write_run(folder / "kd", "kd", epochs=2)
    result = json.loads((folder / "kd/result.json").read_text())
    scores = {"epoch": 1, "clean": 0.8, "robust": 0.3}
    write_json(folder / "kd/result.json", result | {"validation": {"best": scores, "last": scores}})


@target(
    "run.folder",
    {
        "kd/config.yaml": damaged_yaml,
        "kd/result.json": damaged_json,
        "kd/journal.jsonl": damaged_lines,
    },
    write_folder,
)
def read_folder(folder: Path) -> None:
    recipe = recipe_of(str(folder / "kd"))
    check_classes("teacher", str(folder / "kd"), ["a", "b"])
    results = find_results([folder])
    if recipe is not None:
        check_leaves(yaml_of(folder / "kd/config.yaml"), recipe)
    for run in results.runs:
        result = json_of(folder / "kd/result.json") or {}
        assert run.minutes is None or run.minutes == result["minutes"], "other minutes"
        for found, line in zip(run.epochs, epochs_in(folder / "kd/journal.jsonl"), strict=False):
            assert (found.epoch, found.clean, found.robust) == (line["epoch"], line.get("clean"), line.get("robust"))
    read_json(folder / "kd/result.json")
    if (folder / "kd/result.json").exists():
        check_leaves(json_of(folder / "kd/result.json"), read_result(folder / "kd"))


def epochs_in(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield a journal's epochs, which have other lines between them."""
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict | list | str):
            return
        if isinstance(event, dict) and "epoch" in event and "terms" in event:
            yield event


@functools.cache
def templates() -> Environment:
    """Return the page's templates, compiled once."""
    return Environment(
        loader=PackageLoader("kdiga.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@contextmanager
def quickly(*, drawn: bool) -> Generator[list[Results]]:
    """Make pages faster, and give the results that they are made of.

    Args:
        drawn: False has figures made out of the data and stops before they are drawn.
    """
    seen = list[Results]()

    def kept(folders: Sequence[Path]) -> Results:
        seen.append(find_results(folders))
        return seen[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(report_page, "Environment", return_value=templates()))
        stack.enter_context(mock.patch.object(report_page, "find_results", kept))
        if not drawn:
            stack.enter_context(mock.patch("kdiga.report.charts.inline_svg", return_value="<svg></svg>"))
        yield seen


def page_of(folder: Path) -> str | None:
    """Make the page, and check that what is on it is what the files say, and that names are text."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    number = zlib.crc32(b"".join(path.read_bytes() for path in files))
    with quickly(drawn=number % DRAWN == 0) as results:
        page = write_page([folder], folder / "page.html")
    text = page.path.read_text()
    assert "<script>alert" not in text.lower(), "a name became part of the page"
    check_records(results[0])
    return str(page.left_out[0].reason) if page.left_out else None


def check_records(results: Results) -> None:
    """Check the figures that were taken out of files against the files."""
    for one in results.evaluations:
        content = json_of(one.path)
        for attack, found in one.measured.items():
            assert found.value == content["accuracy"][attack], f"another accuracy under {attack}"
            assert found.interval[0] - 1e-6 <= found.value <= found.interval[1] + 1e-6
            if found.correct is not None:
                assert list(found.correct) == content["correct"][attack], "other outcomes"
                assert math.isclose(sum(found.correct) / found.images, found.value, abs_tol=1e-6)
    for one in results.exports:
        content = json_of(one.path)["formats"]
        for name, found in one.formats.items():
            for attack, value in found.accuracy.items():
                assert value == content[name]["accuracy"][attack], f"another accuracy of {name}"


def result_target(name: str, files: Mapping[str, Any], write: Callable[[Path], Any]) -> None:
    @target(name, files, write)
    def read(folder: Path) -> str | None:
        return page_of(folder)


def write_little_study(folder: Path) -> None:
    write_study(folder, seeds=1)
    for name in ("kdiga", "tangent"):
        shutil.rmtree(folder / name)
    for path in [*folder.rglob("*.jsonl"), *folder.rglob("last-test.json")]:
        path.unlink()


result_target(
    "result.evaluation",
    {"kd/evaluation.json": damaged_json},
    lambda folder: write_json(folder / "kd/evaluation.json", evaluation("kd", images=FEW)),
)
result_target(
    "result.certificate",
    {"kd/certificate.json": damaged_json},
    lambda folder: write_json(folder / "kd/certificate.json", certificate("kd")),
)
result_target("result.study", {"study.json": damaged_json}, write_little_study)


def write_suitability(folder: Path) -> None:
    write_json(
        folder / "suitability.json",
        header("suitability", "kdiga suitable runs/teacher")
        | about("teacher")
        | {
            "verdict": "suitable",
            "measures": {},
            "findings": [{"name": "preprocessing", "verdict": "passed", "message": "None is better.", "evidence": {}}],
        },
    )


result_target("result.suitability", {"suitability.json": damaged_json}, write_suitability)


def write_export(folder: Path) -> None:
    measured = {
        "accuracy": {"clean": 0.75},
        "interval_95": {"clean": [0.4, 0.95]},
        "examples": {"clean": FEW},
        "bytes": 40_000,
        "runtime": "onnxruntime",
        "latency_ms": {"1": {"median": 1.0, "low": 0.9, "high": 1.2}},
    }
    formats = {"pytorch": measured, "onnx": measured | {"agreement": {"same_class": 1.0}, "same_as": ""}}
    write_json(folder / "export.json", header("export", "kdiga export runs/kd") | about("kd") | {"formats": formats})


result_target("result.export", {"export.json": damaged_json}, write_export)


def write_explained(folder: Path) -> None:
    write_json(folder / "explanation.json", explanation(["kd"]))
    np.savez(folder / "explanation.npz", **pictures(2, 2))


result_target("result.explanation", {"explanation.json": damaged_json, "explanation.npz": damaged_npz}, write_explained)


@target(
    "result.compared",
    {"a/evaluation.json": damaged_json, "b/evaluation.json": damaged_json},
    lambda folder: [
        write_json(folder / f"{place}/evaluation.json", evaluation(name, images=FEW))
        for place, name in (("a", "kd"), ("b", "tangent"))
    ],
)
def read_compared(folder: Path) -> None:
    differences = compare(folder / "a", folder / "b").attacks
    rows = [json_of(folder / f"{place}/evaluation.json")["correct"] for place in "ab"]
    for found in differences:
        one, other = (np.array(each[found.attack], float) for each in rows)
        assert math.isclose(found.difference, one.mean() - other.mean(), abs_tol=1e-9), "another difference"
        assert found.interval[0] <= found.difference <= found.interval[1], "an interval beside its difference"
        assert (found.only_first, found.only_second) == ((one > other).sum(), (other > one).sum()), "other counts"
    if check_earlier_result(folder / "a/evaluation.json", {"data": "fashion-mnist"}, overwrite=False):
        assert json_of(folder / "a/evaluation.json")["data"] == "fashion-mnist", "an evaluation of something else"


HUB = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "model_args": {"in_chans": 1},
    "pretrained_cfg": {"input_size": [1, 16, 16], "mean": [0.5], "std": [0.25], "num_classes": 3, "interpolation": "x"},
}


@target("hub.config", {"config.json": damaged_json}, lambda folder: write_json(folder / "config.json", HUB))
def read_hub_config(folder: Path) -> str:
    """Read what tells a model's architecture, beside weights that no network fits: nothing else may be raised."""
    import kdiga

    (folder / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    try:
        kdiga.load_model(f"hf-hub:{folder}")
    except InputError as error:
        return str(error)
    raise AssertionError("a model without weights was loaded")
