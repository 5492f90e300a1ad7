"""Profiles: their parts add up, memory is what tensors hold, and nothing is left behind."""

from __future__ import annotations

import json

import pytest
import torch

from kdiga import stopwatch
from kdiga.methods import available_methods
from kdiga.model_state import seeded
from kdiga.models import load_model, save_model
from kdiga.recipes.validate import recipe_from_dict
from kdiga.stopwatch import Stopwatch
from kdiga.training import TrainingSettings, autotune
from kdiga.training.step_profile import SECTIONS, ProfiledRun, peak_bytes, variants
from kdiga.training.stepper import Stepper
from kdiga.workflows.prepare import prepare
from kdiga.workflows.profile import _MeasuredRun as measured_run
from kdiga.workflows.profile import checks_of, profile_recipe


def test_an_inner_section_is_not_counted_twice(monkeypatch):
    now = [0.0]

    def pass_by(seconds):
        now[0] += seconds

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    with watch("outer"):
        pass_by(2)
        with watch("inner"):
            pass_by(5)
        pass_by(1)
    pass_by(100)
    assert watch.seconds == {"outer": 3.0, "inner": 5.0}


def test_a_section_that_fails_ends():
    watch = Stopwatch()
    with pytest.raises(ValueError, match="stop"), watch("outer"), watch("inner"):
        raise ValueError("stop")
    with watch("later"):
        pass
    assert watch._running == []


def test_peak_is_what_tensors_held_at_once():
    """Two of four megabytes at once, never three; what was there before does not count."""
    before = torch.zeros(10**6)

    def step():
        one = before + 1
        two = one + 1
        del one
        return two * 2

    assert peak_bytes(step, torch.device("cpu")) == pytest.approx(8e6, rel=0.01)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    teacher = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    with seeded(1):
        save_model(load_model("cnn-8", in_channels=1, image_size=8), teacher)
    return {
        "data": "digits",
        "student": "cnn-4",
        "teacher": str(teacher),
        "method": "kdiga",
        "training": {"epochs": 3, "batch_size": 32, "validation_steps": 2},
    }


def test_every_route_side_by_side(recipe):
    seen = []
    found = profile_recipe(prepare(recipe_from_dict(recipe)), steps=4, on_variant=lambda *one: seen.append(one))
    assert [one["label"] for one in found["variants"]] == [
        f"{route} {precision}"
        for precision in ("fp32", "bf16")
        for route in ("exact", "finite-difference", "one-sided")
    ]
    assert [one[1] for one in seen] == list(range(6))
    assert found["route"]["chosen"] == "exact"
    assert found["steps"] == 3 * (1294 // 32)  # a tenth of 1437 is held out
    for one in found["variants"]:
        assert set(one["sections"]) == set(SECTIONS)
        assert one["sections"]["attack"] == 0
        for part in ("data", "teacher", "student", "alignment", "backward", "optimizer"):
            assert one["sections"][part] > 0, part
        assert one["minutes"] == pytest.approx(one["seconds"] * found["steps"] / 60)
        assert one["peak_bytes"] > 32 * 64 * 4
    exact, central, one_sided = (one["peak_bytes"] for one in found["variants"][:3])
    assert max(exact, central, one_sided) < 2 * min(exact, central, one_sided)
    json.dumps(found)


def test_all_rounds_are_counted(recipe):
    """Without a teacher, too, as of every round but the first."""
    recipe = recipe | {"teacher": None, "rounds": {"count": 4}, "training": recipe["training"] | {"validate_every": 2}}
    found = profile_recipe(prepare(recipe_from_dict(recipe)), steps=1)
    assert found["steps"] == 4 * 3 * (1294 // 32)
    assert found["variants"][0]["minutes"] == pytest.approx(found["variants"][0]["seconds"] * found["steps"] / 60)
    assert all(one["sections"]["teacher"] > 0 for one in found["variants"])
    assert checks_of(recipe_from_dict(recipe)) == 4 * 2


@pytest.mark.parametrize(
    ("method", "dear"),
    [
        ({"name": "kd"}, lambda number: 0),
        ({"name": "kdiga", "align_every": 4}, lambda number: number % 4 == 0),
        ({"name": "kdiga", "align_every": 10}, lambda number: number % 10 == 0),
        ({"name": "iad", "begin": 0.4}, lambda number: number / 119 >= 0.4),
        ({"name": "rslad", "with": {"kdiga": {"align_every": 3}}}, lambda number: number % 3 == 0),
        (
            {"name": "igam", "begin": 0.5, "with": {"kdiga": {"align_every": 2, "gradient_of": "probability"}}},
            lambda number: (number / 119 >= 0.5) + (number % 2 == 0),
        ),
    ],
)
def test_seconds_are_the_mean_of_all_steps_of_the_run(method, dear, recipe, monkeypatch):
    """Also where some steps have more terms than others; one measurement in three is disturbed."""
    now, taken = [0.0], [0]

    def take(_stepper, _batch, number):
        taken[0] += 1
        now[0] += 1 + 2 * dear(number) + 50 * (taken[0] % 3 == 0)

    settings = TrainingSettings(batch_size=32, route="exact")
    profiled = measured_run(prepare(recipe_from_dict(recipe | {"method": method}))).profiled
    monkeypatch.setattr(Stepper, "take_and_wait", take)
    with monkeypatch.context() as patch:
        patch.setattr(autotune.time, "perf_counter", lambda: now[0])
        spent = [profiled.seconds(settings), profiled.profile("run", settings).seconds]
    expected = sum(1 + 2 * dear(number) for number in range(120)) / 120
    assert spent == [pytest.approx(expected)] * 2


def test_methods_without_routes_have_one_variant_a_precision():
    for name, method in available_methods().items():
        labels = variants(TrainingSettings(), method(), compiled=True)
        routed = method().needs.student_gradient == "differentiable"
        assert len(labels) == (12 if routed else 4), name
        assert all(one.route != "auto" and one.precision != "auto" for one in labels.values())


def test_attacks_have_a_section_of_their_own(recipe):
    found = profile_recipe(prepare(recipe_from_dict(recipe | {"method": {"name": "adaad", "steps": 2}})), steps=1)
    parts = found["variants"][0]["sections"]
    assert parts["attack"] > 0
    assert parts["teacher"] > 0, "asked within the attack, and counted here"
    assert found["route"]["chosen"] is None


@pytest.mark.parametrize(("asked", "measured"), [(False, False), (True, True), ("auto", True)])
def test_the_layout_is_the_recipes(asked, measured, recipe, monkeypatch):
    real, seen = ProfiledRun.profile, []

    def profile(self, label, settings, **options):
        seen.append(settings.channels_last)
        return real(self, label, settings, **options)

    monkeypatch.setattr(ProfiledRun, "profile", profile)
    training = recipe["training"] | {"channels_last": asked}
    profile_recipe(prepare(recipe_from_dict(recipe | {"method": "kd", "training": training})), steps=1)
    assert seen == [measured] * 2


def test_the_whole_run_is_on_the_recipes_own_route(recipe):
    asked = recipe | {"training": recipe["training"] | {"route": "one-sided"}}
    found = profile_recipe(prepare(recipe_from_dict(asked)), steps=1)
    assert found["route"]["chosen"] == "exact"
    assert found["whole_run"]["label"] == "one-sided fp32"
