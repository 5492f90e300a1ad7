"""The example in every command's help is understood, and where it is cheap it runs: in JSON, and quietly."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from kdiga.cli import app as application
from tests.cli.test_cli import QUICK, RECIPES, run

for module in application.COMMANDS:
    importlib.import_module(f"kdiga.cli.{module}")
GROUP = typer.main.get_command(application.app)
# What is put behind an example to make it short. The rest takes minutes, or data that is not everywhere.
CHEAPER = {
    "train": ["--dry-run"],
    "cache": ["--dry-run"],
    "study": ["--dry-run"],
    "evaluate": ["--attacks", "clean,pgd-2", "--examples", "20", "--no-checks"],
    "compare": [],
    "certify": ["--method", "clever", "--examples", "4", "--clever-batches", "10", "--clever-batch-size", "2"],
    "suitable": ["--examples", "20", "--restarts", "1"],
    "explain": ["--examples", "20", "--restarts", "1", "--attack", "pgd-2", "--pictures", "0"],
    "report": [],
    "profile": ["--steps", "1"],
    "tune": ["--trials", "1", "--epochs", "1", "--workers", "1"],
    "methods": [],
    "models": [],
    "data": [],
    "recipes": [],
    "doctor": [],
}
LISTS = {"methods", "models", "data", "recipes", "doctor"}
KEEPING_NOTHING = {"train", "cache", "study", "compare"}  # a dry run, or a question without a folder


def example(command: str) -> list[str]:
    """Return the words of a command's example, without kdiga and its own name."""
    found = re.findall(r"^Example: (.+)$", inspect.getdoc(GROUP.commands[command].callback), re.MULTILINE)
    assert len(found) == 1, f"kdiga {command} has {len(found)} examples"
    words = shlex.split(found[0])
    assert words[:2] == ["kdiga", command]
    return words[2:]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder as after the demo: a teacher and two students, and evaluations of these."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(RECIPES, folder / "recipes")
    run("train", "recipes/digits-teacher.yaml", *QUICK, "--out", "runs/demo/teacher", cwd=folder)
    shutil.copytree(folder / "runs/demo/teacher", folder / "runs/digits-teacher")  # as the recipes name it
    for name in ("kd", "tangent"):
        extra = ["--set", f"method={name}", "--out", f"runs/demo/{name}"]
        run("train", "recipes/digits-kdiga.yaml", *QUICK, *extra, cwd=folder)
    for name in ("teacher", "kd", "tangent"):
        run("evaluate", f"runs/demo/{name}", *CHEAPER["evaluate"], cwd=folder)
    return folder


@pytest.mark.parametrize("command", list(GROUP.commands))
def test_an_example_is_understood(command):
    words = example(command)
    with GROUP.commands[command].make_context(command, list(words)):
        pass
    for word in words:
        assert not word.startswith("recipes/") or (Path(RECIPES).parent / word).is_file(), word


@pytest.mark.parametrize("command", list(GROUP.commands))
def test_every_command_ends_in_json(command):
    options = {name for one in GROUP.commands[command].params for name in one.opts}
    assert "--json" in options
    assert ("--quiet" in options) == (command not in LISTS)


@pytest.mark.parametrize("command", list(CHEAPER))
def test_an_example_runs_and_stdout_is_json_alone(command, demo):
    words = [command, *example(command), *CHEAPER[command]]
    found = json.loads(run(*words, "--json", "-", cwd=demo))
    assert found
    kept = {"evaluate": "evaluation.json", "certify": "certificate.json", "suitable": "suitability.json"}.get(command)
    if kept is not None:  # the same content as the command's own file
        assert found in [json.loads(path.read_text()) for path in (demo / "runs").rglob(kept)]
    if command == "tune":
        assert found == json.loads((demo / "runs/digits-kdiga-tune/tune.json").read_text())
    if command in LISTS:
        return
    words += ["--overwrite"] if command == "explain" else []
    told = run(*words, "--quiet", cwd=demo).splitlines()
    assert len(told) == (command not in KEEPING_NOTHING)
    assert all((demo / line).exists() for line in told)


def test_a_quiet_run_says_where_it_is_and_its_json_is_its_result(demo):
    words = ["train", "recipes/digits-kdiga.yaml", *QUICK, "--set", "training.epochs=1", "--out", "runs/quiet"]
    assert run(*words, "--set", "training.lr=0.02", "--quiet", "--json", "r.json", cwd=demo) == "runs/quiet\n"
    assert json.loads((demo / "r.json").read_text()) == json.loads((demo / "runs/quiet/result.json").read_text())
