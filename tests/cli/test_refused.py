"""What can be asked for and not be had, on this machine or at all: one line that says so and what to do instead."""

from __future__ import annotations

import pytest
import torch

import kdiga
from tests.cli.test_cli import run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "digits-teacher", "--set", "training.device=cuda"),
        ("profile", "digits-teacher", "--set", "training.device=cuda"),
        ("evaluate", "model.safetensors", "--data", "digits", "--device", "cuda"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_gpu_that_is_not_here(arguments, tmp_path):
    kdiga.save_model(kdiga.load_model("cnn-4", in_channels=1, image_size=8), tmp_path / "model.safetensors")
    (said,) = run(*arguments, cwd=tmp_path, expect=2).splitlines()
    assert "device was 'cuda' and PyTorch sees no CUDA GPU here; use auto or cpu" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo",),
        ("study", "study-digits"),
        ("tune", "digits-kdiga"),
        ("claims", "claims-cpu"),
        ("curve", "curve-resnet20", "--over", "method.gradient_weight=0,1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_work_that_a_launcher_may_not_start_twice(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    (said,) = run(*arguments, cwd=tmp_path, expect=2).splitlines()
    assert "was started in 2 processes by a launcher; start it once, " in said
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "cnn-8", "--data", "digits", "--version", "plush"), "AutoAttack version 'plush' is not known"),
        (("certify", "cnn-8", "--data", "digits", "--method", ","), "method '' is not known; accepted: clever"),
        (
            ("export", "cnn-8", "--data", "digits", "--to", "safetensors", "--transfer", "clean"),
            "'clean' cannot be transferred; give some of fgsm",
        ),
    ],
    ids=["version", "method", "transfer"],
)
def test_values_that_there_are_not(arguments, message, tmp_path):
    (said,) = run(*arguments, cwd=tmp_path, expect=2).splitlines()
    assert message in said
    assert not list(tmp_path.iterdir())
