"""The models that come with kdiga have the accuracies that their index states."""

from __future__ import annotations

import pytest
import torch

import kdiga
from kdiga.errors import InputError
from kdiga.models.sources.zoo import FOLDER, zoo_index
from kdiga.workflows.loaded_model import load_with_test_set
from kdiga.workflows.requests import JudgeRequest
from tests.cli.test_cli import run

NAMES = list(zoo_index())


def measured(name: str, *attacks: str) -> kdiga.Evaluation:
    about = zoo_index()[name]
    threat = kdiga.ThreatModel(**about["threat"])
    return kdiga.evaluate(
        kdiga.load_model(f"zoo:{name}"), kdiga.load_data(about["data"]), threat=threat, attacks=attacks
    )


def test_the_index_names_the_files_that_are_there():
    assert sorted(NAMES) == sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 500_000


@pytest.mark.parametrize("name", NAMES)
def test_a_cheap_attack_finds_the_accuracy_of_the_index(name):
    about, found = zoo_index()[name], measured(name, "pgd-20")
    assert found.examples == about["examples"]
    for attack in ("clean", "pgd-20"):
        assert found[attack] == pytest.approx(about["accuracy"][attack], abs=1 / found.examples), attack
    assert about["accuracy"]["autoattack"] <= about["accuracy"]["pgd-20"]
    assert found.about["parameters"] == about["parameters"]
    assert found.about["architecture"] == about["architecture"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_autoattack_finds_the_accuracy_of_the_index(name):
    expected = zoo_index()[name]["accuracy"]["autoattack"]
    assert measured(name, "autoattack")["autoattack"] == pytest.approx(expected, abs=1 / 360)


def test_weights_are_read_as_float32_and_say_where_they_are_from():
    model = kdiga.load_model("zoo:digits-teacher")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.origin.source == "zoo:digits-teacher"
    assert not model.training


def test_data_and_threat_model_come_with_the_name():
    _, test_set = load_with_test_set(JudgeRequest(examples=10), "zoo:digits-kd")
    assert (test_set.data, test_set.threat) == ("digits", kdiga.ThreatModel("linf", 0.1))


def test_the_list_of_models_names_them(tmp_path):
    printed = run("models", cwd=tmp_path)
    assert all(f"zoo:{name}" in printed for name in NAMES)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: kdiga.load_model("zoo:digits-techer"), "did you mean zoo:digits-teacher"),
        (lambda: kdiga.load_model("zoo:digits-kd", weights="x.pt"), "its weights come with kdiga"),
        (lambda: kdiga.load_model("zoo:digits-kd", num_classes=3), "was made with num_classes=10, not num_classes=3"),
    ],
)
def test_what_is_refused(load, message):
    with pytest.raises(InputError, match=message):
        load()
