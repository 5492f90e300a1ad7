"""The page's text: whole, in order, escaped, and the same each time."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from kdiga.errors import InputError
from kdiga.report import write_page
from tests.report.samples import (
    MODELS,
    STUDENTS,
    evaluation,
    explanation,
    pictures,
    write_all,
    write_json,
    write_run,
    write_study,
)

VOID = {"meta", "link", "img", "br", "path", "use", "rect", "circle", "polygon"}


class Page(HTMLParser):
    """Collects what a page is made of, and checks that its elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts, self.headings, self.drawn = [], [], [], [], [], []
        self.words = []
        self.feed(text.replace("\u00a0", " "))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag == "code":
            self.texts.append(" ".join(self.words))
            self.words = []

    def handle_data(self, data):
        if self.open[-2:] == ["code", "span"]:  # a command, an argument at a time
            self.words.append(data)
            return
        if self.open and self.open[-1] == "style":
            self.style = data
        elif self.open:
            self.texts.append(data.strip())
            if self.open[-1] == "text":
                self.drawn.append(data)
            if re.fullmatch("h[1-6]", self.open[-1]):
                self.headings.append(data.strip())

    def all(self, tag, **wanted):
        return [a for t, a in self.attributes if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    @property
    def text(self):
        return " ".join(part for part in self.texts if part)


def page_of(*folders, **options):
    return Page(write_page(list(folders), **options).path.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder)


SECTIONS = [
    "Models",
    "Accuracy against eps",
    "Robustness and training cost",
    "Certified robustness",
    "Why: gradients, linearity and bounds",
    "Input gradients and adversarial examples",
    "Training",
    "Findings",
    "Provenance",
]


def test_all_sections_are_there_in_order(page):
    assert page.headings[0] == "Did the robustness transfer?"
    assert page.headings[1] == (
        "Yes, in part. The tangent student keeps 80 % of its teacher's robust accuracy (56.0 % vs 70.0 %), "
        "with 1/6 of the parameters."
    )
    assert [heading for heading in page.headings if heading in SECTIONS] == SECTIONS
    links = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert len(links) > len(SECTIONS)


def test_nothing_comes_from_outside_and_nothing_runs(page):
    assert "script" not in page.tags
    for _, attributes in page.attributes:
        assert not any(name.startswith("on") for name in attributes)
        for value in attributes.values():
            assert not re.match(r"(\w+:)?//", value or "")
            assert not re.search(r"url\((?!#)", value or "")
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_every_figure_says_in_numbers_what_it_shows(page):
    drawings = page.all("div", role="img")
    assert len(drawings) == 13
    assert all(len(re.findall(r"\d", drawing["aria-label"])) >= 4 for drawing in drawings)
    assert all(len(image["alt"]) > 15 for image in page.all("img"))
    sweep = next(drawing["aria-label"] for drawing in drawings if "against eps" in drawing["aria-label"])
    assert "teacher falls from 86.0 % at eps 0 to 1.0 % at eps 0.3" in sweep


def test_all_commands_are_listed_once(folder, page):
    for command in (
        "kdiga evaluate runs/kd --examples 200 --sweep",
        "kdiga explain runs/teacher runs/kd runs/kdiga runs/tangent",
        "kdiga certify runs/kd --against runs/teacher",
        f"kdiga train {folder.name}/kd/config.yaml --out {folder.name}/kd-again",
    ):
        assert page.texts.count(command) == 1
    assert any(text.startswith("Reproduce: ") for text in page.texts)


def test_no_path_of_this_machine_is_on_the_page(folder, tmp_path):
    run = tmp_path / "runs"
    shutil.copytree(folder, run)
    content = evaluation("kd") | {"command": "kdiga evaluate runs/kd --data /home/alice/secret/images"}
    write_json(run / "kd/evaluation/best-linf-0.1/evaluation.json", content)
    text = write_page([run]).path.read_text()
    assert str(tmp_path) not in text
    assert "alice" not in text
    assert "runs/kd/config.yaml" in text


def test_models_are_joined_by_fingerprint(page):
    table = page.texts[page.texts.index("Models") :]
    assert [text for text in table if text in MODELS][:4] == ["teacher", "tangent", "kdiga", "kd"]
    assert page.text.count("4.25 min") == 1  # run, evaluation, certificate, explanation: one model, one line
    assert "54,666" in page.text
    assert "48.8 – 63.0" in page.text  # tangent's interval


def test_the_difference_from_the_teacher_is_paired(page):
    assert "−14.0" in page.texts
    assert any(re.fullmatch(r"−18\.8 to −9\.1", text) for text in page.texts)
    assert "not paired" not in page.text


def test_what_alignment_guarantees_stands_next_to_the_radii(page):
    place = page.texts.index("rho / L")
    row = page.texts[place + 3 : place + 14]
    assert {"1.27", "0.02", "41.0 %"} <= set(row), row


def test_findings_tell_the_worst_first(folder, tmp_path):
    content = evaluation("tangent")
    content["findings"] += [
        {"name": "black-box", "verdict": "failed", "message": "Square beats PGD.", "evidence": {}},
        {"name": "transfer", "verdict": "skipped", "message": "no teacher", "evidence": {}},
    ]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    doubted = evaluation("teacher")
    doubted["findings"][0]["verdict"] = "warning"
    write_json(copy / "teacher/evaluation/best-linf-0.1/evaluation.json", doubted)
    write_json(copy / "tangent/evaluation/best-linf-0.1/evaluation.json", content)
    page = page_of(copy)
    assert page.headings[1] == "These numbers cannot be trusted yet: tangent failed checks."
    tones = [a["class"] for a in page.all("span") if (a.get("class") or "").startswith("pill")]
    assert tones[:3] == ["pill failed", "pill warning", "pill warning"]
    assert "tangent failed 1 of 5 checks: black-box." in page.texts
    assert any("1 could not be run" in text for text in page.texts)


def test_what_is_absent_is_left_out_and_named(tmp_path):
    write_json(tmp_path / "a.d/evaluation.json", evaluation("kd", sweep=False) | {"findings": []})
    page = page_of(tmp_path)
    assert [heading for heading in page.headings if heading in SECTIONS] == ["Models", "Provenance"]
    assert "Not measured, and how to measure it" in page.headings
    for command in (
        "kdiga evaluate runs/kd --sweep auto --norm linf --eps 0.1",
        "kdiga evaluate runs/kd --norm linf --eps 0.1",
        "kdiga certify runs/kd --against TEACHER --norm linf --eps 0.1",
        "kdiga explain TEACHER runs/kd --norm linf --eps 0.1",
    ):
        assert command in page.texts


def test_a_complete_page_has_nothing_missing(page):
    assert "Not measured, and how to measure it" not in page.headings


def test_other_data_and_other_threats_have_their_own_parts(folder, tmp_path):
    for name in ("kd", "teacher"):
        write_json(tmp_path / name / "evaluation.json", evaluation(name, eps=0.05, sweep=False))
        other = evaluation(name) | {"data": "mnist", "data_fingerprint": "others"}
        write_json(tmp_path / "mnist" / name / "evaluation.json", other)
    page = page_of(folder, tmp_path, out=tmp_path / "page.html")
    assert "The results cover 3 combinations of data set and threat model." in page.text
    parts = [heading for heading in page.headings if heading.startswith(("fashion-mnist,", "mnist,"))]
    assert parts == ["fashion-mnist, linf eps 0.1", "fashion-mnist, linf eps 0.05", "mnist, linf eps 0.1"]
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert max(np.diff(levels)) == 1


def test_evaluations_at_several_eps_make_a_curve(tmp_path):
    for eps in (0.05, 0.1, 0.2):
        for name in ("kd", "tangent"):
            write_json(tmp_path / f"{name}-{eps}/evaluation.json", evaluation(name, eps=eps, sweep=False))
    page = page_of(tmp_path)
    labels = [a["aria-label"] for a in page.all("div", role="img")]
    curves = [label for label in labels if "against eps" in label]
    assert len(curves) == 1  # in the first part only, though three parts are of this data and norm
    assert "tangent falls from 80.0 % at eps 0 to 32.0 % at eps 0.2" in curves[0]


def test_corruptions_and_transfer_are_shown_per_kind_and_per_source(tmp_path):
    content = evaluation("kd", sweep=False)
    worst = {"label": 3, "accuracy": 0.25, "examples": 20, "name": "three"}
    accuracy = {"gaussian_noise": [0.9, 0.8, 0.7, 0.6, 0.5], "contrast": [0.6, 0.5, 0.4, 0.3, 0.2]}
    content["corruptions"] = {"strengths_of": "CIFAR-10-C", "mean": 0.55, "interval_95": [0.48, 0.62]}
    content["corruptions"] |= {"worst_class": worst, "accuracy": accuracy}
    message = "the images of 2 models (most by zoo:a: zoo:a 5, runs/b 1) fooled 5."
    sources = {"zoo:a": {"found": 5, "transfers": 0.3}, "runs/b": {"found": 1, "transfers": 0.1}}
    content["findings"].append(
        {"name": "transfer", "verdict": "warning", "message": message, "evidence": {"sources": sources}}
    )
    write_json(tmp_path / "evaluation.json", content)
    page = re.sub("<[^>]+>", "", write_page([tmp_path]).path.read_text()).replace("\u00a0", " ")
    assert "Accuracy under common corruptions" in page
    assert all(text in page for text in ("55.0 %", "48.0 – 62.0; worst class 25.0 %", "70.0 %", "40.0 %", "CIFAR-10-C"))
    assert f"transfer: {message}" in page


def test_text_from_files_is_text(tmp_path):
    evil = "<script>alert(1)</script>$x^2$"
    for name in MODELS:
        run = tmp_path / name
        write_run(run, name, None if name == "teacher" else "runs/teacher")
        content = evaluation(name) | {"command": evil, "architecture": evil, "notes": {"autoattack": [evil]}}
        write_json(run / "evaluation/x/evaluation.json", content)
        recipe = (run / "config.yaml").read_text().replace(f"name: {MODELS[name][0]}\n", f"name: {json.dumps(evil)}\n")
        (run / "config.yaml").write_text(recipe)
        journal = (run / "journal.jsonl").read_text().replace('"label"', json.dumps(evil))
        (run / "journal.jsonl").write_text(journal)
    told = explanation(STUDENTS)
    for model in told["models"]:
        model["name"] = evil + model["name"]
        for bound in model["bounds"].values():
            bound["pieces"] = {evil: bound["mean"]}
    told["reasons"] = [evil]
    write_json(tmp_path / "explain/explanation.json", told)
    np.savez(tmp_path / "explain/explanation.npz", **(pictures(4) | {"classes": np.array([evil] * 4)}))
    page = page_of(tmp_path, title=evil)
    assert "script" not in page.tags
    assert not any("onerror" in attributes for _, attributes in page.attributes)
    assert page.headings[0] == evil
    assert page.text.count(evil) > 20
    drawn = [text for text in page.drawn if text.endswith("kd")]
    assert drawn == [evil + "kd"] * 2  # in both bounds' figures, as it is and no formula


def test_the_same_results_give_the_same_bytes(folder, tmp_path):
    first, second = (write_page([folder], tmp_path / name).path.read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_a_study_has_its_table_and_one_seed_of_each_method(tmp_path):
    page = page_of(write_study(tmp_path))
    assert "Study: study-old" in page.headings
    assert page.headings[1].startswith("Yes, in part. The tangent/seed-0 student keeps 80 %")
    assert "kd/seed-0" in page.text
    assert "kd/seed-1" not in page.text.split("Study: study-old")[0]
    assert "28.0 ± 0.0" in page.text
    assert "Some files do not identify their images" in page.text
    assert "kdiga study old.yaml" in page.texts


def test_a_page_replaces_only_a_page(folder, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<!doctype html><p>precious</p>")
    with pytest.raises(InputError, match="was not written by kdiga report"):
        write_page([folder], mine)
    assert "precious" in mine.read_text()
    with pytest.raises(InputError, match="is a folder"):
        write_page([folder], tmp_path)
    out = write_page([folder], tmp_path / "new/page.html").path
    before = out.stat().st_mtime_ns
    assert write_page([folder], out).path.stat().st_mtime_ns >= before
    assert not list(out.parent.glob("*.partial"))
