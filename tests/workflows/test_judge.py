"""Judging modules in Python: the same results and the same page as on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import kdiga
from kdiga.cli import train
from kdiga.report import write_page
from kdiga.results.evaluations import EvaluationResult
from kdiga.workflows.certify import run_certification
from kdiga.workflows.evaluate import run_evaluation
from kdiga.workflows.explain import explain_runs
from kdiga.workflows.requests import CertifyRequest, EvaluateRequest, ExplainRequest
from tests.conftest import five_layers

SMALL = {"threat": "linf 0.1", "examples": 24}
SAMPLES = {"clever_batches": 10, "clever_batch_size": 5, "samples": 20, "selection_samples": 5}


class Scaled(nn.Module):
    """A model whose logits are so large that its gradients vanish."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1e4 * self.model(images)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    data = kdiga.load_data("digits")
    sound, doubtful = (five_layers(0, activation=nn.ReLU), Scaled(five_layers(0, activation=nn.ReLU)))
    evaluations = [
        kdiga.evaluate(one, data, attacks=["pgd-2"], name=name, **SMALL)
        for name, one in (("sound", sound), ("doubtful", doubtful))
    ]
    certificate = kdiga.certify(doubtful, data, name="doubtful", teacher=sound, alpha=0.1, **SMALL, **SAMPLES)
    explanation = kdiga.explain(
        sound, {"doubtful": doubtful}, data, attack="fgsm", restarts=1, pictures=2, out=folder / "why", **SMALL
    )
    suitability = kdiga.suitable(sound, data, restarts=1, out=folder / "suitable", **SMALL)
    page = kdiga.write_report(*evaluations, certificate, explanation, suitability, out=folder / "page.html")
    return folder, evaluations, certificate, explanation, page


def test_the_page_is_that_of_the_command_line(judged):
    folder, evaluations, _, explanation, page = judged
    text = page.path.read_text()
    for part in ("doubtful", "sound", "Certified", "PGD-2", "kdiga.evaluate(doubtful,", "kdiga.explain(teacher,"):
        assert part in text, part
    assert explanation.gallery is not None
    written = EvaluationResult.read(folder / "page" / "doubtful" / "evaluation.json")
    assert written.accuracy["pgd-2"] == evaluations[1]["pgd-2"]
    assert written.fingerprint != evaluations[0].about["fingerprint"], "the same weights, another model"
    again = kdiga.write_report(folder / "page", folder / "why", out=folder / "again.html")
    assert len(page.verdicts) == 1
    assert [one.headline for one in again.verdicts] == [one.headline for one in page.verdicts]


def test_results_of_one_model_belong_together(judged):
    _, evaluations, certificate, explanation, _ = judged
    assert certificate.fingerprint == evaluations[1].about["fingerprint"] == explanation.models[1].fingerprint
    assert certificate.against.teacher.fingerprint == evaluations[0].about["fingerprint"]
    assert explanation.models[0].correct["clean"] == [int(one) for one in evaluations[0].results["clean"].correct]


def test_two_evaluations_are_compared(judged, tmp_path):
    _, (sound, doubtful), *_ = judged
    found = kdiga.compare(doubtful, sound)
    assert (found.first, found.second) == ("doubtful", "sound")
    assert [one.attack for one in found.attacks] == ["clean", "pgd-2"]
    (tmp_path / "evaluation.json").write_text(json.dumps({"kind": "evaluation"} | sound.to_dict()))
    assert kdiga.compare(doubtful, tmp_path).to_dict() == found.to_dict()


def test_all_checks_are_those_of_the_command_line():
    data = kdiga.load_data("digits")
    found = kdiga.evaluate(five_layers(0), data, attacks=["clean"], checks=True, **SMALL)
    assert {"uses-input", "saturation", "black-box", "transfer"} <= {one.name for one in found.findings}
    assert len({one.name for one in found.findings}) == len(found.findings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: kdiga.certify(five_layers(0), data, sigmas=1), "setting 'sigmas' is not known; did you mean"),
        (lambda data: kdiga.suitable("runs/x", data), "teacher was 'runs/x'; it must be a torch.nn.Module"),
        (
            lambda data: kdiga.explain(five_layers(0), {"a": "runs/x"}, data),
            "the model was str; give a torch.nn.Module",
        ),
        (lambda data: kdiga.explain(five_layers(0), {}, data), "no student was given"),
        (lambda data: kdiga.compare("nothing", "here"), "'nothing' does not exist"),
        (lambda data: kdiga.write_report(out=str(data.name)), "no folder was given"),
        (lambda data: kdiga.evaluate(five_layers(0), data, examples=0), "examples was 0"),
    ],
)
def test_what_is_refused(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kdiga.InputError, match=message):
        call(kdiga.load_data("digits"))


CLAIMED = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))

def claimed():
    net = Net()
    net.load_state_dict(torch.load("claimed.pt", weights_only=True))
    return net
"""


def test_a_file_of_code_and_its_weights_end_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("claimed.py").write_text(CLAIMED)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), "claimed.pt")
    model = {"model": "python:claimed.py:Net", "weights": Path("claimed.pt")}
    given = {"data": "digits", "eps": "0.1", "examples": 8, "seed": 0}
    found = run_evaluation(EvaluateRequest(**model, **given, attacks=("fgsm",), out=Path("review/evaluation")))
    few = {"clever_batches": 10, "clever_batch_size": 5, "method": ("clever",)}
    run_certification(CertifyRequest(**model, **given, **few, out=Path("review/certificate")))
    explained = ExplainRequest(
        teacher="zoo:digits-teacher",
        students=("python:claimed.py:claimed",),
        **given,
        attack="fgsm",
        restarts=1,
        out=Path("review/why"),
        pictures=0,
    )
    explain_runs(explained)
    assert found.content["model"] == "python:claimed.py:Net claimed.pt"
    page = write_page([Path("review")])
    assert "python:claimed.py" in page.path.read_text()
    assert kdiga.compare("review/evaluation", "review/evaluation").attacks[0].difference == 0


def test_training_names_the_command_that_judges_own_code(capsys):
    epoch = {"epoch": 0, "clean": 0.5, "robust": 0.5}
    result = {"validation": {"best": epoch, "last": epoch}, "minutes": 1.0}
    train._show(Console(width=300), result, Path("runs/x"), "python:nets.py:Net")
    assert (
        "Next: kdiga evaluate python:nets.py:Net --weights runs/x/best.safetensors --attacks" in capsys.readouterr().out
    )
    train._show(Console(width=300), result, Path("runs/x"), "cnn-8")
    assert "Next: kdiga evaluate runs/x --attacks" in capsys.readouterr().out
