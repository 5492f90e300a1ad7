"""What the commands print of the shipped studies and claims, and the page of sample results, are those written down."""

from __future__ import annotations

import importlib
import json

import pytest

from kdiga.cli.app import COMMANDS, app
from tests.api.outputs import COLUMNS, PAGE, PLANS, dry_run, page_lines, plan, planned_recipes

HOW = "Undo the change, or run `python -m tests.api.outputs` and name it in CHANGELOG.md."
WRITTEN = json.loads(PLANS.read_text())


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_shipped_study_and_claims_recipe_is_written_down():
    assert planned_recipes() == list(WRITTEN), HOW
    assert len(WRITTEN) == 14


@pytest.mark.parametrize("name", WRITTEN)
def test_a_plan_has_the_runs_written_down(name):
    found = json.loads(json.dumps(plan(name)))
    assert [row[0] for row in found] == [row[0] for row in WRITTEN[name]], HOW
    assert found == WRITTEN[name], HOW


def test_the_command_writes_the_plan(empty_folder):
    for name in COMMANDS:
        importlib.import_module(f"kdiga.cli.{name}")
    file = empty_folder / "plan.json"
    app(["study", "study-digits", "--dry-run", "--quiet", "--json", str(file)], standalone_mode=False)
    content = json.loads(file.read_text())
    assert content == dry_run("study-digits")[0]
    runs = [dict(zip((*COLUMNS, "settings"), row, strict=True)) for row in WRITTEN["study-digits"]]
    expected = {
        "kind": "dry-run",
        "folder": "runs/study-digits",
        "runs": [{name: run[name] for name in COLUMNS} for run in runs],
    }
    assert content == expected


def test_the_page_of_the_sample_results_has_the_text_written_down(empty_folder):
    assert page_lines(empty_folder / "results") == PAGE.read_text().splitlines(), HOW
