"""What the shell is offered on TAB."""

from __future__ import annotations

import pytest

import kdiga
from kdiga.cli.command import completion
from tests.cli.test_cli import run


def offered(monkeypatch, folder, *words):
    """Return what bash would offer for the last word."""
    monkeypatch.setenv("_KDIGA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["kdiga", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return run(cwd=folder).split()


def test_the_shells_get_a_script(tmp_path, monkeypatch):
    # Typer would look for the shell that the tests run in, which may be one that completes nothing.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    for shell in ("bash", "zsh", "fish"):
        assert "_KDIGA_COMPLETE" in run("--show-completion", shell, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ev",), ["evaluate"]),
        (("train", "--over"), ["--overwrite"]),
        (("methods", "kdi"), ["kdiga", "kdiga-ard"]),
        (("train", "digits-k"), ["digits-kdiga"]),
        (("study", "study-d"), ["study-digits"]),
        (("train", "recipes/digits-k"), []),  # the shell's own files
        (("train", "digits-kdiga", "--set", "training.e"), ["training.epochs=", "training.ema="]),
        (("evaluate", "resnet1"), ["resnet14", "resnet110", "resnet10", "resnet18"]),
        (("inspect", "cnn-8", "--data", "fa"), ["fashion-mnist"]),
        (("certify", "cnn-8", "--norm", "l"), ["linf", "l2"]),
        (("suitable", "cnn-8", "--which", "l"), ["last"]),
        (("evaluate", "cnn-8", "--device", "c"), ["cpu", "cuda"]),
        (("export", "runs/x", "--to", "onnx,"), ["onnx,torch-export", "onnx,safetensors", "onnx,hf"]),
        (("evaluate", "runs/"), []),  # the shell's own files
    ],
)
def test_names_are_offered(words, expected, monkeypatch, tmp_path):
    assert sorted(offered(monkeypatch, tmp_path, *words)) == sorted(expected)


def test_every_method_is_offered(monkeypatch, tmp_path):
    assert set(offered(monkeypatch, tmp_path, "methods", "''")) == set(kdiga.available_methods())


def test_what_is_there_already_is_not_offered_again():
    assert completion(("clean", "cw-20"), commas=True)("clean,c") == ["clean,cw-20"]
