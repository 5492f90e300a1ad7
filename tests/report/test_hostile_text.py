"""Names and messages out of files are text on every page: each place that a text can come from is tried."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from jinja2 import PackageLoader

from kdiga.errors import InputError
from kdiga.export.card import Card, CardOrigin, Number
from kdiga.export.robustbench_files import loader_source
from kdiga.models.classifier import ModelSpec
from kdiga.report import page as report_page
from kdiga.report import write_page
from kdiga.report.claims import claims_markdown, write_claims
from kdiga.report.curve import curve_markdown
from kdiga.report.study import table_markdown
from kdiga.results.studies import ClaimsResult, CurveResult, StudyResult
from kdiga.types import ThreatModel
from tests.experiments.test_tables import content as study_content
from tests.report.samples import (
    certificate,
    evaluation,
    explanation,
    pictures,
    write_json,
    write_run,
    write_study,
)
from tests.report.test_curve import content as curve_content

SCRIPT, ATTRIBUTE = "<script>alert(1)</script>", '"onmouseover="alert(1)'
LINK, IMAGE = "[x](javascript:alert(1))", "![x](javascript:alert(1))"
EVIL = f"{SCRIPT}{ATTRIBUTE}'onmouseover='{LINK}|{IMAGE}"
# objects whose keys are names, of attacks, classes, terms and so on, rather than fields
NAMES = {
    "accuracy",
    "correct",
    "interval_95",
    "autoattack",
    "notes",
    "terms",
    "formats",
    "latency_ms",
    "pieces",
    "versions",
    "attacks",
    "coefficients",
    "best",
    "examples",
    "all",
    "robust",
}
# What a place must not be able to do; nothing else may go wrong for a text there.
LEFT_OUT = (KeyError, ValueError, TypeError, StopIteration, AttributeError, InputError)


class Active(HTMLParser):
    """Collects what in a page could act."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [tag] if tag in ("script", "iframe", "object", "embed", "base", "form") else []
        for name, value in attrs:
            led = name in ("href", "src", "action", "formaction", "data", "style")
            if name.startswith("on") or (led and "javascript:" in (value or "").lower()):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data):
        self.text += data


def leaves(tree, place=()) -> Iterator[tuple]:
    """Yield the places of all texts: of values, and of an object's keys."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        if isinstance(tree, dict) and place and place[-1] in NAMES:
            yield (*place, key), "key"
        if isinstance(tree[key], str):
            yield (*place, key), "value"
        else:
            yield from leaves(tree[key], (*place, key))


def changed(tree, place, which):
    """Return plain data with a hostile text in one place."""
    tree = copy.deepcopy(tree)
    holder = tree
    for key in place[:-1]:
        holder = holder[key]
    if which == "value":
        holder[place[-1]] = EVIL
    else:
        items = [(EVIL if key == place[-1] else key, value) for key, value in holder.items()]
        holder.clear()
        holder.update(items)
    return tree


def kinds(tree):
    """Return one place of each kind: that of the first item for those that are in lists."""
    return [
        (place, which) for place, which in leaves(tree) if not any(isinstance(key, int) and key > 0 for key in place)
    ]


EXPORT = {
    "kind": "export",
    "command": "kdiga export runs/kd",
    "data": "digits",
    "threat": {"norm": "linf", "eps": 0.1},
    "model": "runs/kd",
    "architecture": "cnn-4",
    "provenance": evaluation("kd")["provenance"],
    "formats": {
        "onnx": {
            "file": "model.onnx",
            "accuracy": {"clean": 0.75},
            "interval_95": {"clean": [0.4, 0.95]},
            "examples": {"clean": 12},
            "bytes": 40,
            "runtime": "onnxruntime",
            "latency_ms": {"1": {"median": 1.0, "low": 0.9, "high": 1.2}},
            "agreement": {"same_class": 1.0},
            "same_as": "",
        }
    },
}
SUITABILITY = {
    "kind": "suitability",
    "command": "kdiga suitable x",
    "data": "fashion-mnist",
    "model": "runs/kd",
    "threat": {"norm": "linf", "eps": 0.1},
    "verdict": "suitable",
    "measures": {},
    "findings": [{"name": "x", "verdict": "passed", "message": "y", "evidence": {}}],
}


def texts_of_evaluation():
    content = evaluation("kd", images=6) | {"notes": {"autoattack": ["a note"]}}
    content["findings"][0]["verdict"] = "warning"
    return content


FILES = {
    "kd/evaluation.json": texts_of_evaluation(),
    "kd/certificate.json": certificate("kd"),
    "explanation.json": explanation(["kd"]),
    "export.json": EXPORT,
    "suitability.json": SUITABILITY,
}


@pytest.fixture
def quick(monkeypatch):
    """Figures are made and not drawn: what they hold of names is drawn as paths or told in their labels."""
    monkeypatch.setattr("kdiga.report.charts.inline_svg", lambda *_: "<svg></svg>")
    once = functools.cache(report_page.Environment)
    monkeypatch.setattr(report_page, "PackageLoader", functools.cache(PackageLoader))
    monkeypatch.setattr(report_page, "Environment", once)


def page_with(folder: Path) -> str:
    (folder / "page.html").unlink(missing_ok=True)
    return write_page([folder], folder / "page.html").path.read_text()


@pytest.mark.parametrize("file", FILES)
def test_texts_of_results_on_the_page(tmp_path, quick, file):
    write_run(tmp_path / "kd", "kd", epochs=2)
    np.savez(tmp_path / "explanation.npz", **pictures(2, 2))
    for name, content in FILES.items():
        write_json(tmp_path / name, content)
    shown = 0
    for place, which in kinds(FILES[file]):
        write_json(tmp_path / file, changed(FILES[file], place, which))
        page = Active(page_with(tmp_path))
        assert page.found == [], (place, which)
        shown += SCRIPT in page.text
    assert shown >= 3, "hardly any text came through, so nothing is shown"


@pytest.mark.parametrize("file", ["config.yaml", "journal.jsonl", "result.json"])
def test_texts_of_runs_on_the_page(tmp_path, quick, file):
    run = tmp_path / "kd"
    write_json(tmp_path / "kd/evaluation.json", evaluation("kd", images=6))
    write_run(run, "kd", epochs=2)
    lines = (run / file).read_text().splitlines()
    sound = yaml.safe_load("\n".join(lines)) if file == "config.yaml" else json.loads(lines[0])
    for place, which in kinds(sound):
        tree = changed(sound, place, which)
        text = yaml.safe_dump(tree) if file == "config.yaml" else "\n".join([json.dumps(tree), *lines[1:]])
        (run / file).write_text(text)
        assert Active(page_with(tmp_path)).found == [], (place, which)


def test_texts_of_studies_on_the_page(tmp_path, quick):
    write_study(tmp_path, seeds=1)
    sound, shown = json.loads((tmp_path / "study.json").read_text()), 0
    for entry in kinds(sound):
        write_json(tmp_path / "study.json", changed(sound, *entry))
        page = Active(page_with(tmp_path))
        assert page.found == [], entry
        shown += SCRIPT in page.text
    assert shown >= 4


def test_classes_and_titles_and_names_of_files_on_the_page(tmp_path):
    evil = tmp_path / EVIL.replace("/", "")
    write_json(evil / "explanation.json", explanation(["kd"]))
    np.savez(evil / "explanation.npz", **(pictures(2, 2) | {"classes": np.array([EVIL] * 4)}))
    write_json(evil / "bad/evaluation.json", {})
    page = Active(write_page([tmp_path], tmp_path / "page.html", title=EVIL).path.read_text())
    assert page.found == []
    assert page.text.count(SCRIPT) >= 3


def check_markdown(text: str) -> str:
    """Check that Markdown, as the site's renderer has it, holds nothing that acts; return its text."""
    markdown = pytest.importorskip("markdown")
    page = Active(markdown.markdown(text, extensions=["tables", "fenced_code"]))
    assert page.found == []
    return page.text


def check_every_text(content, write, least):
    """Check Markdown with a hostile text in each place."""
    sound, shown = write(content), 0
    columns = [line.count("|") - line.count("\\|") for line in sound.splitlines() if line.startswith("|")]
    for place, which in kinds(content):
        try:
            text = write(changed(content, place, which))
        except LEFT_OUT:  # it is no text, but a word that the program itself writes
            continue
        shown += "alert(1)" in check_markdown(text)
        found = [line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")]
        assert set(found) <= set(columns), f"{place} breaks a table"
    assert shown >= least


def test_texts_of_a_study_in_its_table():
    check_every_text(
        study_content.__wrapped__(), lambda tree: table_markdown(StudyResult.model_validate(tree)), least=5
    )


def test_texts_of_a_curve_in_its_table():
    check_every_text(
        curve_content.__wrapped__(), lambda tree: curve_markdown(CurveResult.model_validate(tree)), least=3
    )


def test_the_page_of_claims_shows_robustness_by_epoch(tmp_path):
    content = json.loads((Path(__file__).with_name("claims.json")).read_text())
    pair, first = "resnet4b-to-cnn-8", content["runs"][0]
    content["runs"] += [
        first
        | {
            "folder": f"{label}/{pair}/seed-0",
            "label": label,
            "history": [(1, 0.4, 0.3), (2, 0.5, last), (3, 0.6, last)],
        }
        for label, last in (("kd", 0.1), ("kdiga", 0.35))
    ]
    write_claims(ClaimsResult.model_validate(content), tmp_path / "page.md")
    assert (tmp_path / "page-epochs.png").stat().st_size > 10_000
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| kd | 1 | 30.0 | 33 % | 10.0 | -20.0 |" in lines
    assert "| kdiga | 1 | 35.0 | 67 % | 35.0 | +0.0 |" in lines


def test_texts_of_claims_on_their_page():
    content = json.loads((Path(__file__).with_name("claims.json")).read_text())
    check_every_text(content, lambda tree: claims_markdown(ClaimsResult.model_validate(tree), {"a": "x.png"}), least=10)


CARD = {
    "name": "kd",
    "data": "digits",
    "class_names": ["a", "b"],
    "command": "kdiga export x",
    "fingerprint": "0" * 64,
    "numbers": [{"what": "clean", "value": "90 %", "images": 3, "source": "x.json"}],
    "left_out": ["evaluation/old/evaluation.json"],
    "origin": {"method": "kd", "paper": "a paper", "teacher": "t", "recipe": "data: digits\n"},
    "formats": {
        "pytorch": EXPORT["formats"]["onnx"] | {"file": None},
        "onnx": EXPORT["formats"]["onnx"] | {"same_as": "int8"},
    },
    "provenance": evaluation("kd")["provenance"],
}


def card(tree) -> str:
    given = tree | {
        "spec": ModelSpec("cnn-4", num_classes=2, in_channels=1, image_size=8),
        "parameters": 10,
        "queries": 5,
        "threat": ThreatModel("linf", 0.1),
        "numbers": [Number(**one) for one in tree["numbers"]],
        "origin": CardOrigin(**tree["origin"]),
    }
    text = Card(**given).text()
    return text.split("---\n", 2)[2] if text.startswith("---") else text


def test_texts_of_an_export_on_its_card():
    check_every_text(CARD, card, least=9)


def test_a_data_set_s_name_is_no_code_in_the_loader_of_an_export():
    name = '"""; import os; os.environ["KDIGA_PROOF"] = "ran" #'
    source = loader_source(ThreatModel("linf", 0.1), name, (1, 8, 2))
    with mock.patch.dict("os.environ"):
        import os

        given: dict[str, object] = {"__file__": "robustbench_model.py", "__name__": "x"}
        exec(compile(source, "robustbench_model.py", "exec"), given)
        assert "KDIGA_PROOF" not in os.environ
    assert given["DATASET"] == name
