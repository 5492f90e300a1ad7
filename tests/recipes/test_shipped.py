"""Recipes that come with kdiga are found by name, and a file wins over a name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdiga.errors import InputError
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.study import load_study
from kdiga.recipes.shipped import about, find_recipe, shipped
from kdiga.recipes.validate import load_recipe
from tests.cli.test_cli import run

FOLDER = Path(__file__).parents[2] / "recipes"


def test_all_of_them_have_a_name_and_say_what_they_are():
    assert shipped() == {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    assert all(len(about(path)) > 20 for path in shipped().values())


def test_a_name_is_as_good_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("digits-kdiga") == load_recipe(FOLDER / "digits-kdiga.yaml")
    by_name, by_path = load_study("study-digits"), load_study(FOLDER / "study-digits.yaml")
    assert by_name.out == by_path.out == Path("runs/study-digits")
    assert [run_spec.recipe for run_spec in by_name.run_specs] == [run_spec.recipe for run_spec in by_path.run_specs]
    assert load_claims("claims-cpu").out == Path("runs/claims-cpu")


def test_a_file_wins_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits-kdiga").mkdir()
    assert find_recipe("digits-kdiga") == FOLDER / "digits-kdiga.yaml"
    Path("digits-teacher").write_text("data: digits")
    assert find_recipe("digits-teacher") == Path("digits-teacher")
    assert find_recipe(Path("digits-kdiga").resolve()).is_dir()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("digits-kdigo", "'digits-kdigo' is not known; did you mean digits-kdiga.*`kdiga recipes` lists"),
        ("recipes/digits-kdiga.yaml", "no such file.*'digits-kdiga' comes with kdiga, give that name"),
        ("of/nothing/at/all/zzzz.yaml", r"no such file\); give a YAML file\.$"),
    ],
)
def test_what_is_neither(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_recipe(given)


def test_a_wheels_come_first(tmp_path, monkeypatch):
    (tmp_path / "digits-kdiga.yaml").write_text("# Another.\n")
    monkeypatch.setattr(sys.modules[shipped.__module__], "_FOLDERS", (tmp_path, FOLDER))
    assert about(shipped()["digits-kdiga"]) == "Another."
    assert len(shipped()) == len(list(FOLDER.glob("*.yaml")))


def test_the_command_line_takes_names(tmp_path):
    command = [sys.executable, "-m", "kdiga", "recipes"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "A robust teacher of 8x8 digits" in listed.stdout
    assert {line.split()[0] for line in listed.stdout.splitlines()} == set(shipped())
    assert "would write to runs/digits-teacher" in run("train", "digits-teacher", "--dry-run", cwd=tmp_path)
    wrong = run("study", "study-digit", cwd=tmp_path, expect=2)
    assert "did you mean study-digits" in wrong
    assert len(wrong.splitlines()) == 1
