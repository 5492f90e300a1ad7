"""The demo from end to end: shortened in the ordinary suite, whole in the slow one."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import kdiga
from kdiga.workflows import demo
from tests.cli.test_cli import run

NAMES = ["teacher", "ce", "kd", "kdiga", "tangent"]


def check_folder(folder, examples, seed):
    """Return what `kdiga evaluate` would have written of each model, and check the rest."""
    models = [
        json.loads((folder / name / f"evaluation/best-linf-0.1-{examples}/evaluation.json").read_text())
        for name in NAMES
    ]
    teacher = models[0]
    for name, content in zip(NAMES, models, strict=True):
        accuracy = content["accuracy"]
        assert (content["examples"], content["seed"], content["threat"]["eps"]) == (examples, seed, 0.1)
        assert 0 <= accuracy["autoattack"] <= accuracy["pgd-40"] <= accuracy["clean"] <= 1
        assert content["sweep"]["eps"][-1] == 0.3
        assert len(content["findings"]) > 10
        assert content["provenance"]["versions"]["torch"]
        model = kdiga.load_model(folder / name)
        assert content["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert content is teacher or 8 * content["parameters"] <= teacher["parameters"]
    explanation = json.loads((folder / "explanation.json").read_text())
    assert [model["name"] for model in explanation["models"]] == NAMES
    found = [model["robust"]["accuracy"] for model in explanation["models"]]
    assert found == [content["accuracy"]["autoattack"] for content in models], "attacked once, told twice"
    assert "<svg" in (folder / "report.html").read_text()
    assert (folder / "figure.png").stat().st_size > 10000
    return models


def test_shortened_demo(tmp_path, monkeypatch, short_autoattack):
    monkeypatch.setattr(demo, "LocalExecutor", lambda workers: ThreadPoolExecutor(1))
    monkeypatch.setattr(demo, "TRAINING", {"epochs": 3, "batch_size": 64, "lr": 5e-3})
    output = run("demo", "--out", "shown", "--seed", "5", "--examples", "6", cwd=tmp_path)
    check_folder(tmp_path / "shown", 6, 5)
    for name in NAMES:
        assert name in output
    assert "report.html" in output
    refused = run("demo", "--out", "shown", cwd=tmp_path, expect=2)
    assert "--overwrite" in refused
    assert "--resume" not in refused, "the demo has no such option"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whole_demo_shows_the_claim(seed, tmp_path):
    """What the README says of it, for three seeds: about two minutes each."""
    started = time.perf_counter()
    run("demo", "--out", "shown", "--seed", str(seed), cwd=tmp_path)
    minutes = (time.perf_counter() - started) / 60
    models = check_folder(tmp_path / "shown", 360, seed)
    clean, robust = (
        {name: content["accuracy"][attack] for name, content in zip(NAMES, models, strict=True)}
        for attack in ("clean", "autoattack")
    )
    assert robust["tangent"] >= robust["teacher"] - 0.06
    assert robust["tangent"] > robust["kdiga"]
    assert robust["kdiga"] >= robust["kd"] + 0.15
    assert clean["tangent"] >= clean["teacher"] - 0.02
    assert clean["kdiga"] >= clean["teacher"] - 0.05
    assert minutes < 5
