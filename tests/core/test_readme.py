"""What the README shows runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.study import load_study
from kdiga.recipes.validate import load_recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_library_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = SNIPPETS
    assert len(example.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    assert example.count("20 *") == 2
    exec(compile(example.replace("20 *", "2 *"), "README.md", "exec"), {})
    assert "pgd-20: accuracy" in capsys.readouterr().out


def test_the_readme_is_short_and_whole():
    assert len(TEXT.splitlines()) <= 110
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", TEXT):
        assert (ROOT / link).is_file(), link


@pytest.mark.parametrize("recipe", sorted(set(re.findall(r"recipes/[\w-]+\.yaml", TEXT))))
def test_the_recipes_it_names_are_there(recipe, tmp_path):
    if "/study-" in recipe:
        load_study(ROOT / recipe, tmp_path)
    elif "/claims-" in recipe:
        load_claims(ROOT / recipe, tmp_path)
    else:
        load_recipe(ROOT / recipe)


def test_ci_runs_the_readmes_test_command():
    command = re.search(r"## Test\n\n    (.+)\n", TEXT).group(1)
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert script.index("make check") + 1 == script.index(command)
