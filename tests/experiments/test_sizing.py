"""What all runs take: kinds of runs measured once, and sums that a hand can check."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kdiga.errors import InputError
from kdiga.experiments import sizing
from kdiga.experiments.sizing import size_runs
from kdiga.training.step_profile import ProfiledRun
from kdiga.workflows.prepare import load_recipe_data, prepare
from kdiga.workflows.profile import RunCost, run_cost
from tests.cli.test_cli import RECIPES, run


@pytest.fixture
def sized(study, monkeypatch):
    """Size a study with steps of 2 s, 10 an epoch, checks of 3 s, and passes of 1 and 2 ms an image."""
    monkeypatch.setattr(sizing, "run_cost", lambda run, steps: RunCost("fp32", 2.0, 10, 3.0))
    monkeypatch.setattr(sizing, "_pass_seconds", lambda *_: (0.001, 0.002))

    def size(*replaced, **options):
        checked = study(*replaced)
        data = load_recipe_data(checked.run_specs[0].recipe.data)
        return size_runs(checked, data, **options)

    return size


def test_runs_that_differ_in_seed_alone_are_one_kind(sized):
    told = []
    found = sized(on_part=lambda *part: told.append(part))
    rows = {row["label"]: row for row in found["training"]}
    assert {label: (row["runs"], row["epochs"], row["teacher"]) for label, row in rows.items()} == {
        "robust": (1, 3, None),
        "ce": (2, 6, None),
        "kd": (2, 6, "robust"),
    }
    assert rows["kd"]["hours"] == pytest.approx((6 * 10 * 2 + 6 * 3) / 3600)
    assert found["runs"] == 5
    assert found["hours"]["training"] == pytest.approx(15 * (20 + 3) / 3600)
    assert [part[1:] for part in told] == [(place, 5) for place in range(5)]


def test_every_round_counts(sized):
    found = sized(("ce: ce", "iterated: {method: kd, rounds: {count: 4}}"))
    row = next(row for row in found["training"] if row["label"] == "iterated")
    assert (row["epochs"], row["checks"], row["steps"]) == (24, 24, 240)


def test_teachers_of_one_architecture_are_all_named(study, monkeypatch):
    monkeypatch.setattr(sizing, "run_cost", lambda run, steps: RunCost("fp32", 2.0, 10, 3.0))
    runs = zip("ab", study().of("method")["kd"], strict=True)
    specs = [replace(one, needs=(f"teachers/{name}",)) for name, one in runs]
    monkeypatch.setattr(sizing, "prepare", lambda *_: None)
    row = sizing._training_row(specs, specs[0].recipe, None, 1)
    assert (row["runs"], row["teacher"]) == (2, "a, b")


def test_attacks_are_counted_by_their_passes_on_every_model(sized):
    found = sized()
    rows = {row["student"]: row for row in found["attacks"]}
    # pgd-2: two steps and two looks; and the clean pass of either attack. Best and last weights.
    seconds = 40 * (0.001 + (1 + 4) * 0.001 + 2 * 0.002)
    assert {name: row["models"] for name, row in rows.items()} == {"cnn-8": 2, "cnn-4": 8}
    assert rows["cnn-4"]["hours"] == pytest.approx(8 * seconds / 3600)
    assert found["hours"]["attacks"] == pytest.approx(10 * seconds / 3600)


def test_trials_count_as_runs_of_their_method_and_are_not_attacked(sized):
    found = sized(("seeds:", "tune: {trials: 3, epochs: 1}\nseeds:"))
    rows = {row["label"]: row for row in found["training"]}
    assert (rows["kd"]["runs"], rows["kd"]["epochs"]) == (5, 9)
    assert {row["student"]: row["models"] for row in found["attacks"]} == {"cnn-8": 2, "cnn-4": 8}


def test_checks_of_some_epochs_are_counted_up(sized):
    found = sized(("validation_steps: 2", "validation_steps: 2, validate_every: 2"))
    assert {row["checks"] for row in found["training"]} == {2, 4}


def test_a_model_that_cannot_be_had_is_told_before_anything_is_measured(sized, monkeypatch):
    monkeypatch.setattr(sizing, "run_cost", lambda *_, **__: pytest.fail("measured already"))
    with pytest.raises(InputError, match=r"^kd/seed-0: .*'none.pt'"):
        sized(("  teacher: robust\n", "  teacher: {name: cnn-8, weights: none.pt, normalization: none}\n"))


def test_it_measures_what_a_run_would_do(study, monkeypatch):
    seen, to_pixels = set(), sizing.to_pixels
    monkeypatch.setattr(sizing, "to_pixels", lambda images: seen.add(len(images)) or to_pixels(images))
    checked = study(("ce: ce", "ce: ce\n  kdiga: {method: kdiga, training: {route: one-sided, precision: fp32}}"))
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    found = size_runs(checked, data, steps=1)
    assert {row["label"]: row["runs_as"] for row in found["training"]} == {
        "robust": "fp32",
        "ce": "fp32",
        "kd": "fp32",
        "kdiga": "one-sided fp32",
    }
    assert all(row["step_seconds"] > 0 and row["check_seconds"] > 0 for row in found["training"])
    assert {row["steps"] for row in found["training"]} == {3 * (360 // 16), 6 * (360 // 16)}
    assert all(row["forward_seconds"] > 0 for row in found["attacks"])
    assert not checked.out.exists()
    assert seen == {40}, "no more images at once than an attack looks at"
    json.dumps(found)


def test_precision_auto_takes_the_faster(study, monkeypatch):
    seconds = {"fp32": 1.0, "bf16": 0.5}
    monkeypatch.setattr(ProfiledRun, "seconds", lambda self, settings, steps: seconds[settings.precision])
    recipe = study(("epochs: 3", "epochs: 3, precision: auto")).of("method")["ce"][0].recipe
    cost = run_cost(prepare(recipe), steps=1)
    assert (cost.label, cost.seconds) == ("bf16", 0.5)


def test_the_command_sizes_a_study(tmp_path):
    output = run("profile", str(RECIPES / "study-digits.yaml"), "--steps", "1", "--json", "sizes.json", cwd=tmp_path)
    assert "learns from" in output
    assert "All 7 runs, one after the other:" in output
    found = json.loads((tmp_path / "sizes.json").read_text())
    assert (found["kind"], found["runs"], len(found["training"])) == ("sizing", 7, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["sizes.json"]


def test_compiled_is_for_one_run(tmp_path):
    message = run("profile", str(RECIPES / "study-digits.yaml"), "--compiled", cwd=tmp_path, expect=2)
    assert "--compiled is for a recipe of one run" in message
