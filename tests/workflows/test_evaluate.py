"""Evaluations of one model that run side by side."""

from __future__ import annotations

import json

import pytest

import kdiga
from kdiga.evaluation import measure as measurement
from kdiga.evaluation.masking.finding import Finding
from kdiga.workflows import evaluate
from kdiga.workflows.evaluate import run_evaluation
from kdiga.workflows.requests import EvaluateRequest


@pytest.fixture
def model(tmp_path):
    kdiga.save_model(kdiga.load_model("cnn-4", in_channels=1, image_size=8), tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_a_finding_of_an_attack_stays_as_long_as_its_accuracy(model, tmp_path, monkeypatch):
    asked = {"model": model, "data": "digits", "eps": "0.1", "examples": 8, "out": tmp_path / "out"}
    broken = Finding("finite", "failed", "planted", {})
    with monkeypatch.context() as planted:
        planted.setattr(measurement, "_not_finite", lambda results: [broken])
        run_evaluation(EvaluateRequest(attacks=["fgsm"], **asked))
    found = run_evaluation(EvaluateRequest(attacks=["pgd-2"], checks=True, **asked)).content
    assert set(found["accuracy"]) == {"clean", "fgsm", "pgd-2"}
    findings = {one["name"]: one["verdict"] for one in found["findings"]}
    assert findings["finite"] == "failed"
    assert len(findings) == len(found["findings"]) > 10, "one a name"


def test_one_that_ends_while_another_attacks_keeps_its_figures(model, tmp_path, monkeypatch):
    """Both read what was there before either had measured anything."""
    asked = {"model": model, "data": "digits", "eps": "0.1", "examples": 8, "out": tmp_path / "out"}
    attack = evaluate._attack

    def meanwhile(request, *others):
        if request.attacks == ["pgd-2"]:
            run_evaluation(EvaluateRequest(attacks=["fgsm"], **asked))
        return attack(request, *others)

    monkeypatch.setattr(evaluate, "_attack", meanwhile)
    found = run_evaluation(EvaluateRequest(attacks=["pgd-2"], **asked))
    kept = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert set(kept["accuracy"]) == set(found.content["accuracy"]) == {"clean", "fgsm", "pgd-2"}
    assert set(kept["correct"]) >= {"fgsm", "pgd-2"}


CODE = """
import os
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.fools = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "FOOLS" in os.environ
        nn.init.zeros_(self.net[1].weight)
        nn.init.constant_(self.net[1].bias[:1], 9.0)
        nn.init.zeros_(self.net[1].bias[1:])

    def forward(self, images):
        logits, moved = self.net(images), (255 * images - (255 * images).round()).abs().flatten(1).amax(1) > 0.01
        return torch.where(moved[:, None], -logits, logits) if self.fools else logits
"""


def test_checks_of_own_code_that_changed_run_again(tmp_path, monkeypatch):
    """The file of the code, the weights and the logits at the test images are the same; noise shows the change."""
    (tmp_path / "own.py").write_text(CODE)
    request = EvaluateRequest(
        model=f"python:{tmp_path}/own.py:Own",
        data="digits",
        eps="0.1",
        examples=300,
        attacks=["fgsm"],
        checks=True,
        out=tmp_path / "out",
    )
    left = []
    for fools in (False, True):
        if fools:
            monkeypatch.setenv("FOOLS", "1")
        findings = run_evaluation(request).content["findings"]
        left += [one["evidence"]["left"] for one in findings if one["name"] == "random-search"]
    assert left[0] > 20
    assert left[1] == 0
