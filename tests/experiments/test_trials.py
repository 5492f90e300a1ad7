"""Choosing coefficients: the same points for whoever asks, within range, scored on validation images."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest

from kdiga.errors import InputError
from kdiga.experiments import run_one
from kdiga.experiments.board import VALIDATION, CleanAccuracyFloor, RunSpec
from kdiga.experiments.sections import TuneSettings
from kdiga.experiments.trials import (
    Trial,
    best_trial,
    chosen_recipe,
    coefficients,
    least_clean,
    read_trials,
    trial_method,
    trial_specs,
)
from kdiga.experiments.tune import plan_search
from kdiga.methods import available_methods, search_space
from kdiga.methods.base import coefficient
from kdiga.models import load_model, save_model
from kdiga.recipes.validate import load_recipe, recipe_from_dict
from kdiga.workflows.prepare import load_recipe_data
from tests.report.samples import write_json

RECIPE = {
    "data": {"name": "digits", "train_examples": 400},
    "student": "cnn-4",
    "teacher": "teacher.safetensors",
    "method": {"name": "kd", "temperature": 2},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": {"epochs": 2, "batch_size": 16, "lr": 1e-2, "validation_steps": 2},
}
TUNED = [name for name, method in available_methods().items() if search_space(method())]


@pytest.mark.parametrize("name", TUNED)
def test_points_are_the_same_every_time_and_within_range(name):
    method = available_methods()[name]()
    space = search_space(method)
    points = [trial_method(method, number) for number in range(20)]
    assert points[0] == method
    assert points == [trial_method(method, number) for number in range(20)]
    assert len(set(map(repr, points))) > 15
    for point in points[1:]:
        for name_of_one, search in space.items():
            value = getattr(point, name_of_one)
            assert search.low <= value <= search.high
            assert value in (search.low, search.high) or float(f"{value:.3g}") == value
        others = {field.name: getattr(method, field.name) for field in fields(method) if field.name not in space}
        assert {key: getattr(point, key) for key in others} == others


def test_points_spread_over_the_range():
    method = available_methods()["kd"]()
    (name, search), *_ = search_space(method).items()
    values = [getattr(trial_method(method, number), name) for number in range(1, 9)]
    middle = (search.low * search.high) ** 0.5 if search.log else (search.low + search.high) / 2
    assert 3 <= sum(value < middle for value in values) <= 5


@dataclass(frozen=True)
class Made:
    """A method with one coefficient on a linear scale and one that is a whole number."""

    share: float = coefficient(0.5, 0.2, 0.8, log=False)
    steps: int = coefficient(3, 1, 40)
    name: str = "kept"


def test_linear_and_whole_coefficients():
    points = [trial_method(Made(), number) for number in range(1, 41)]
    shares = [point.share for point in points]
    assert 0.47 < sum(shares) / len(shares) < 0.53
    assert min(shares) < 0.25
    assert max(shares) > 0.75
    assert all(type(point.steps) is int and point.name == "kept" for point in points)
    assert 15 <= sum(point.steps < 40**0.5 for point in points) <= 25


def trial_files(folder, robust, test_robust):
    record = {"clean": 0.9, "robust": robust, "epoch": 1}
    folder.mkdir(parents=True)
    result = {"validation": {"best": record, "last": record | {"robust": 0.0}}, "minutes": 1.0}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "best-test.json").write_text(json.dumps({"accuracy": {"autoattack": test_robust}}))


def test_the_best_is_chosen_by_validation_accuracy_alone(tmp_path):
    recipe = recipe_from_dict(RECIPE)
    trials = trial_specs(recipe, "t", TuneSettings(4, 1), label="kd")
    for run_spec, robust, test in zip(trials, (0.5, 0.7, 0.7), (0.9, 0.1, 0.2), strict=False):
        trial_files(tmp_path / run_spec.folder, robust, test)
    (tmp_path / trials[3].folder).mkdir()
    (tmp_path / trials[3].folder / "failure.json").write_text('{"status": "diverged", "error": "e", "time": 0}')
    read = read_trials(trials, tmp_path)
    assert [trial.status for trial in read] == ["done", "done", "done", "diverged"]
    assert best_trial(read).folder == "t/trial-01", "the first of equals"
    chosen = chosen_recipe(RunSpec("kd/seed-0", "kd", "method", recipe), trials, tmp_path)
    assert chosen == replace(recipe, method=trials[1].recipe.method)
    assert chosen.training.epochs == 2, "the recipe's own, not the trials'"
    assert best_trial([replace(trial, best=None) for trial in read]).folder == "t/trial-00"


def test_a_search_from_start_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(load_model("cnn-4", num_classes=10, in_channels=1, image_size=8), tmp_path / "teacher.safetensors")
    recipe, out = recipe_from_dict(RECIPE), Path("out")
    data = load_recipe_data(recipe.data)
    monkeypatch.setattr(run_one, "measure", lambda *a, **k: pytest.fail("the test images take no part"))

    def go(trials):
        watched = []
        search = plan_search(recipe, out, TuneSettings(trials, 1))
        content = search.run(search.open(data, since=time.time()), data, on_progress=watched.append)
        return content, [watch.ended for watch in watched if watch.ended]

    content, ended = go(2)
    assert ended == ["trial-00", "trial-01"]
    assert content == json.loads((out / "tune.json").read_text())
    assert content["trials"][0]["coefficients"] == coefficients(recipe.method)
    content, ended = go(3)
    assert ended == ["trial-02"]
    scores = {trial["folder"]: trial["best"]["robust"] for trial in content["trials"] if trial["best"]}
    assert content["chosen"] == max(scores, key=scores.__getitem__)
    best = load_recipe(out / "best.yaml")
    number = int(content["chosen"][-2:])
    assert best == replace(recipe, method=trial_method(recipe.method, number))
    with pytest.raises(InputError, match=r"trial-00 .*training.epochs is 1 there and 2 here"):
        plan_search(recipe, out, TuneSettings(2, None)).open(data)
    with pytest.raises(InputError, match="method ce has no coefficients"):
        plan_search(replace(recipe, method=available_methods()["ce"]()), out, TuneSettings(2, 1))


@pytest.mark.parametrize(
    ("least_clean", "chosen"), [(None, "b"), (0.5, "b"), (0.8, "c"), (0.85, "a"), (0.9, "a"), (0.95, "a")]
)
def test_a_floor_for_clean_accuracy(least_clean, chosen):
    """The most robust of those that keep it; where none does, the one that keeps most."""
    accuracies = {"d": (0.8, 0.2), "b": (0.7, 0.6), "c": (0.8, 0.3), "a": (0.9, 0.1)}
    trials = [Trial("lost", {}, "diverged")] + [
        Trial(name, {}, "done", {"clean": clean, "robust": robust}) for name, (clean, robust) in accuracies.items()
    ]
    assert best_trial(trials, least_clean).folder == chosen
    assert best_trial([Trial(name, {}, "diverged") for name in "ef"], least_clean).folder == "e"


def test_a_loss_of_exactly_the_points_allowed_is_within_the_floor(tmp_path):
    """0.52 less 5 points is above 0.47 in floating point."""
    write_json(tmp_path / "start" / VALIDATION, {"accuracy": {"clean": 0.52}})
    floor = CleanAccuracyFloor("start", 5)
    least = least_clean(RunSpec("kd", "kd", "method", recipe_from_dict(RECIPE), floor=floor), tmp_path)
    trials = [Trial("lost 2", {}, "done", {"clean": 0.5, "robust": 0.1})]
    trials.append(Trial("lost 5", {}, "done", {"clean": 0.47, "robust": 0.3}))
    trials.append(Trial("lost 6", {}, "done", {"clean": 0.46, "robust": 0.4}))
    assert best_trial(trials, least).folder == "lost 5"


def test_a_study_that_tunes_uses_what_it_chose(study, monkeypatch):
    checked = study(("seeds:", "tune: {trials: 3, epochs: 1}\nseeds:"), ("lr: 1e-2", "lr: 3e-2"))
    data = load_recipe_data(checked.run_specs[0].recipe.data)
    board = checked.open(data, since=time.time())
    content = checked.run(board, data, on_progress=lambda watch: None)
    ce, kd = content["methods"]
    assert ce["tuning"] is None
    scores = [trial["best"]["robust"] if trial["best"] else -1 for trial in kd["tuning"]["trials"]]
    chosen = kd["tuning"]["trials"][scores.index(max(scores))]
    assert kd["tuning"]["chosen"]["folder"] == chosen["folder"]
    for name, value in chosen["coefficients"].items():
        assert kd["recipe"]["method"][name] == value
    assert kd["recipe"]["training"]["epochs"] == 3
    assert "- kd: " in Path("out/table.md").read_text()
    checked.open(data, since=time.time())  # the chosen coefficients are no other configuration
