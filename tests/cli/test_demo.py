"""The demo from end to end: shortened in the ordinary suite, whole in the slow one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

import kdiga
from kdiga import demo
from tests.cli.test_cli import run

NAMES = ["teacher", "ce", "kd", "kdiga", "tangent"]


def check_folder(folder, examples, seed):
    results = json.loads((folder / "results.json").read_text())
    assert [entry["name"] for entry in results["models"]] == NAMES
    assert [entry["method"] for entry in results["models"]] == ["pgd-at", *NAMES[1:]]
    assert (results["test_images"], results["seed"]) == (examples, seed)
    assert results["threat_model"] == {"norm": "linf", "eps": 0.1}
    assert results["versions"]["torch"]
    teacher = results["models"][0]
    for entry in results["models"]:
        assert 0 <= entry["autoattack"] <= entry["clean"] <= 1
        assert 0 <= entry["pgd-40"] <= entry["clean"]
        model = kdiga.load_model(folder / entry["weights"])
        assert entry["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert entry is teacher or 8 * entry["parameters"] <= teacher["parameters"]
    assert set(results["curves"]["accuracy"]) == set(NAMES)
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/png;base64," in page
    return results


def test_shortened_demo(tmp_path, monkeypatch):
    @contextmanager
    def one_thread_here():
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(demo, "_workers", one_thread_here)
    monkeypatch.setattr(demo, "TRAINING", {"epochs": 3, "batch_size": 64, "lr": 5e-3})
    output = run("demo", "--out", "shown", "--seed", "5", "--examples", "6", cwd=tmp_path)
    results = check_folder(tmp_path / "shown", 6, 5)
    for entry in results["models"]:
        assert entry["name"] in output
    assert "report.html" in output
    refused = run("demo", "--out", "shown", cwd=tmp_path, expect=2)
    assert "--overwrite" in refused
    assert "--resume" not in refused, "the demo has no such option"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whole_demo_shows_the_claim(seed, tmp_path):
    """What the README says of it, for three seeds: about two minutes each."""
    run("demo", "--out", "shown", "--seed", str(seed), cwd=tmp_path)
    results = check_folder(tmp_path / "shown", 360, seed)
    teacher, _, kd, kdiga_student, tangent = results["models"]
    assert tangent["autoattack"] >= teacher["autoattack"] - 0.06
    assert tangent["autoattack"] > kdiga_student["autoattack"]
    assert kdiga_student["autoattack"] >= kd["autoattack"] + 0.15
    assert tangent["clean"] >= teacher["clean"] - 0.02
    assert kdiga_student["clean"] >= teacher["clean"] - 0.05
    assert results["minutes"] < 5
