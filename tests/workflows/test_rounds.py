"""Iterative distillation: a recipe whose students become teachers."""

from __future__ import annotations

import json

import pytest
import torch

import kdiga
from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.recipes.validate import recipe_from_dict
from kdiga.training.loop import TrainingCallbacks
from kdiga.workflows.identity import write_identity
from kdiga.workflows.prepare import prepare
from kdiga.workflows.train import rounds_of, run_recipe
from tests.report.samples import write_json

TRAINING = {"epochs": 4, "batch_size": 20, "lr": 2e-2, "validation_steps": 3}


def recipe_of(**sections):
    return recipe_from_dict(
        {"data": "stripes", "student": "cnn-4", "method": "kdiga", "training": TRAINING, "rounds": {"count": 3}}
        | {"threat": {"eps": 0.1}}
        | sections
    )


@pytest.fixture(scope="module")
def data(stripes):
    return DataSet("stripes", stripes, stripes, "made here")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("rounds")
    return out, run_recipe(prepare(recipe_of(rounds={"count": 3, "lr_factor": 0.1}), data), out)


def test_without_a_teacher_the_first_round_is_plain_training(tmp_path):
    rounds = list(rounds_of(recipe_of(), tmp_path))
    assert [one.method.info.name for one, _ in rounds] == ["ce", "kdiga", "kdiga"]
    assert [one.training.lr for one, _ in rounds] == pytest.approx([2e-2, 2e-4, 2e-4])
    assert rounds[0][0].teacher is None
    for number in (1, 2):
        one, folder = rounds[number]
        assert folder.name == f"round-{number}"
        assert one.teacher == one.student
        assert one.teacher.name.endswith(f"round-{number - 1}")
        assert one.teacher.which == "best"


def test_with_a_teacher_the_first_round_learns_from_it(tmp_path):
    first, _ = next(rounds_of(recipe_of(teacher="runs/robust"), tmp_path))
    assert (first.method.info.name, first.teacher.name) == ("kdiga", "runs/robust")


def test_a_student_starts_from_and_learns_from_its_predecessor(finished):
    out, result = finished
    assert len(result["rounds"]) == 3
    config = (out / "round-1" / "config.yaml").read_text()
    assert str(out / "round-0") in config
    one, two = (kdiga.load_model(out / f"round-{number}").state_dict() for number in (0, 1))
    drift = max(float((one[key] - two[key]).abs().max()) for key in one)
    assert 0 < drift < 0.5


def test_the_best_round_by_validation_is_kept(finished):
    out, result = finished
    scores = [one["validation"]["best"]["robust"] for one in result["rounds"]]
    assert scores[result["best_round"]] == max(scores)
    kept, best = (kdiga.load_model(folder) for folder in (out, out / f"round-{result['best_round']}"))
    assert all(torch.equal(value, best.state_dict()[key]) for key, value in kept.state_dict().items())
    forwards = [
        json.loads((out / f"round-{n}" / "result.json").read_text())["passes"]["student_forwards"] for n in range(3)
    ]
    assert result["passes"]["student_forwards"] == sum(forwards)
    assert result["epochs"] == 3 * TRAINING["epochs"]


def test_finished_rounds_are_not_repeated(finished, data, tmp_path):
    out, result = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = run_recipe(prepare(recipe_of(rounds={"count": 3, "lr_factor": 0.1}), data), out, resume=True)
    assert again == json.loads(json.dumps(result))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_interrupted_between_rounds_goes_on(finished, data, tmp_path):
    _, whole = finished
    recipe = recipe_of(rounds={"count": 3, "lr_factor": 0.1})
    rounds = rounds_of(recipe, tmp_path)
    first, folder = next(rounds)
    run_recipe(prepare(first, data), folder)
    write_identity(prepare(recipe, data), tmp_path)
    resumed = run_recipe(prepare(recipe, data), tmp_path, resume=True)
    for one, two in zip(whole["rounds"], resumed["rounds"], strict=True):
        assert one["validation"]["last"]["robust"] == two["validation"]["last"]["robust"]


class StoppedError(Exception):
    """The end of a process."""


def stop_in_round(number):
    """Return callbacks that end the process after the second epoch of a round."""
    begun = []

    def on_epoch(record):
        begun.extend([record] if record.epoch == 0 else [])
        if len(begun) > number and record.epoch == 1:
            raise StoppedError

    return TrainingCallbacks(on_epoch=on_epoch)


def are_equal(*outs):
    """Return whether two runs have the same last weights in the last round."""
    one, two = (json.loads((out / "round-2/result.json").read_text())["fingerprints"] for out in outs)
    return one == two


def test_an_interrupted_overwrite_goes_on(finished, data, tmp_path):
    whole, _ = finished
    run_recipe(prepare(recipe_of(training=TRAINING | {"epochs": 1}), data), tmp_path)
    write_json(tmp_path / "round-2/evaluation/a/evaluation.json", {})
    recipe = recipe_of(rounds={"count": 3, "lr_factor": 0.1})
    with pytest.raises(StoppedError):
        run_recipe(prepare(recipe, data), tmp_path, overwrite=True, callbacks=stop_in_round(1))
    assert (tmp_path / "round-2/replaced/1/evaluation/a/evaluation.json").is_file()
    run_recipe(prepare(recipe, data), tmp_path, resume=True)
    assert are_equal(tmp_path, whole)


@pytest.mark.parametrize("rounds", [None, {"count": 2}])
def test_overwriting_leaves_no_round_of_the_replaced_run(rounds, data, tmp_path):
    short = TRAINING | {"epochs": 1}
    run_recipe(prepare(recipe_of(training=short), data), tmp_path)
    (tmp_path / "round-2/mine.txt").write_text("mine")
    method = "kdiga" if rounds else "ce"
    run_recipe(prepare(recipe_of(method=method, rounds=rounds, training=short), data), tmp_path, overwrite=True)
    left = [path.name for path in tmp_path.glob("round-*") if (path / "config.yaml").exists()]
    assert sorted(left) == (["round-0", "round-1"] if rounds else [])
    assert (tmp_path / "round-2/mine.txt").read_text() == "mine"
    run_recipe(prepare(recipe_of(method="ce", rounds=None, training=short), data), tmp_path / "round-7")
    run_recipe(prepare(recipe_of(method="ce", rounds=None, training=short), data), tmp_path, overwrite=True)
    assert (tmp_path / "round-7/result.json").is_file() == (rounds is None), "a run below a run without rounds"


def test_rounds_that_were_moved_go_on(finished, data, tmp_path):
    whole, _ = finished
    recipe = recipe_of(rounds={"count": 3, "lr_factor": 0.1})
    with pytest.raises(StoppedError):
        run_recipe(prepare(recipe, data), tmp_path / "old", callbacks=stop_in_round(1))
    (tmp_path / "old").rename(tmp_path / "new")
    run_recipe(prepare(recipe, data), tmp_path / "new", resume=True)
    assert are_equal(tmp_path / "new", whole)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rounds": {"count": 1}}, "at least 2 rounds"),
        ({"rounds": {"which": "first"}}, "'first' is not known"),
        ({"rounds": {"lr_factor": 0}}, "lr_factor was 0"),
        ({"method": "pgd-at"}, "learns from no teacher"),
        ({"method": "kdiga", "rounds": {"rounds": 2}}, "unknown key"),
        ({"method": "mtard", "teacher": "runs/robust", "rounds": None}, "second_teacher: missing section"),
    ],
)
def test_bad_rounds(sections, message):
    with pytest.raises(InputError, match=message):
        recipe_of(**sections)
