"""The page: made from result files alone, whole, and escaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from kdiga.errors import InputError
from kdiga.report import write_page, write_report
from kdiga.report.verdict import verdict

NAMES = ("teacher", "ce", "kd", "kdiga", "tangent")


@pytest.fixture
def results(tmp_path):
    models = [
        {
            "name": name, "method": name, "settings": {"weight": 2.0}, "architecture": "cnn-8", "gradient_cosine": 0.5,
            "parameters": 1000 if row else 9000, "weights": f"{name}/best.safetensors",
            "clean": 0.98 - row / 100, "pgd-40": 0.9 - row / 10, "autoattack": 0.88 - row / 10,
            "interval_95": {attack: [0.1, 0.99] for attack in ("clean", "pgd-40", "autoattack")}, "notes": [],
        }
        for row, name in enumerate(NAMES)
    ]  # fmt: skip
    content = {
        "title": "kdiga demo", "data": "digits", "threat_model": {"norm": "linf", "eps": 0.1}, "test_images": 360,
        "seed": 0, "minutes": 2.0, "models": models, "pictures": "pictures.npz", "training": {"epochs": 3},
        "curves": {"attack": "pgd-20", "eps": [0, 0.1, 0.2], "accuracy": {name: [1, 0.5, 0.1] for name in NAMES}},
        "command": "kdiga demo", "date": "2026-01-01", "versions": {"python": "3"},
        "hardware": {"processor": "p", "cores": 2, "accelerator": None},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(6, 1, 8, 8)) for name in NAMES}
    np.savez(tmp_path / "pictures.npz", images=rng.random((6, 1, 8, 8)), labels=np.arange(6), **arrays)
    return tmp_path, content


class Checker(HTMLParser):
    """Collects what a page refers to, and whether its pictures have words for those who cannot see them."""

    def __init__(self):
        super().__init__()
        self.outside, self.images, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(attributes)
        for key in ("src", "href"):
            if re.match(r"(https?:)?//", attributes.get(key) or ""):
                self.outside.append(attributes[key])


def test_page_is_whole_and_self_contained(results):
    folder, content = results
    report = write_report(folder)
    text = report.page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.outside == []
    assert checker.scripts == 0
    assert all(image.get("alt") for image in checker.images)
    assert "aria-label" in text
    for model in content["models"]:
        assert model["name"] in text
        assert f"{100 * model['autoattack']:.1f}" in text
    assert text.count("<svg") == 1
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_page_escapes_what_came_from_outside(results):
    folder, content = results
    for model in content["models"]:
        model["method"] = "<script>alert(1)</script>"
    content["command"] = "<img src=x onerror=alert(1)>"
    (folder / "results.json").write_text(json.dumps(content))
    checker = Checker()
    checker.feed(write_report(folder).page.read_text())
    assert checker.scripts == 0
    assert all("onerror" not in image for image in checker.images)


def test_report_is_the_same_twice(results):
    folder, _ = results
    assert write_report(folder).page.read_bytes() == write_report(folder).page.read_bytes()


def test_the_demos_results_fit_the_general_page(results):
    folder, content = results
    page = write_page([folder], folder / "page.html")
    text = page.path.read_text()
    assert page.left_out == []
    assert [sentence.name for sentence in page.answers[0].sentences][:2] == ["teacher", "ce"]
    assert "Accuracy under PGD-20 as eps grows" in text
    assert text.count("<img ") == 6 * (1 + len(content["models"]))
    assert "Mean cosine of input gradients" in text
    assert write_report(folder).page.name == "report.html"
    write_page([folder])  # which replaces the demo's own page


def test_verdict_is_computed_and_ordered(results):
    _, content = results
    sentences = verdict(content["models"])
    assert sentences[0].startswith("The teacher withstands AutoAttack on 88.0%")
    assert [sentence.split(":")[0] for sentence in sentences[1:]] == ["ce", "kd", "kdiga", "tangent"]
    assert "-10.0 points against the teacher" in sentences[1]


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="no readable results"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="no readable results"):
        write_report(tmp_path)
