"""A curve: every run from the same start, the answer from validation images, the numbers from test images."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdiga.data import split
from kdiga.errors import InputError
from kdiga.evaluation import evaluate
from kdiga.experiments import run_one
from kdiga.experiments.curve import answer, load_curve, parse_over
from kdiga.experiments.sections import EvaluateSettings
from kdiga.model_state import seeded
from kdiga.models import load_model, save_model
from kdiga.recipes.validate import load_recipe
from kdiga.statistics import paired_difference
from kdiga.workflows.prepare import build_models, load_recipe_data

RECIPE = {
    "data": {"name": "digits", "train_examples": 400},
    "student": "student.safetensors",
    "teacher": "teacher.safetensors",
    "method": {"name": "tangent"},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": {"epochs": 2, "batch_size": 16, "lr": 5e-3, "validation_steps": 2, "validation_share": 0.2},
}
OVER = "method.gap_weight=0,2"
EVALUATION = EvaluateSettings(("clean", "pgd-3"), 60, which=("best",))
CONFIRMATION = EvaluateSettings(("pgd-5",), 20, which=("best",))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a recipe whose student has learnt a little."""
    monkeypatch.chdir(tmp_path)
    data = load_recipe_data(load_recipe(write(RECIPE | {"student": "cnn-4"})).data)
    for name, seed in (("student", 1), ("teacher", 2)):
        with seeded(seed):
            model = load_model("cnn-4", num_classes=10, in_channels=1, image_size=8).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(3):
            for images, labels in data.train.batches(20):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
        save_model(model, tmp_path / f"{name}.safetensors")
    write(RECIPE)
    return data


def write(recipe, name="curve.yaml"):
    Path(name).write_text(yaml.safe_dump(recipe))
    return name


def go(data, **options):
    """Run a sweep in this process; return ``curve.json`` and the folders of the cells that ran."""
    watched = []
    sweep = load_curve("curve.yaml", OVER, out=Path("out"), **({"evaluation": EVALUATION} | options))
    board = sweep.open(data, since=time.time())
    content = sweep.run(board, data, on_progress=watched.append)
    return content, [watch.ended for watch in watched if watch.ended]


def test_a_curve_from_start_to_end(project):
    content, ended = go(project, seeds=(0, 1), at_most=100, confirmation=CONFIRMATION)
    assert ended == [f"{name}/seed-{seed}" for seed in (0, 1) for name in ("start", "gap_weight-0", "gap_weight-2")]
    assert content == json.loads(Path("out/curve.json").read_text())
    for name in ("curve.csv", "curve.md", "curve.png", "curve-dark.png", "curve.svg"):
        assert Path("out", name).stat().st_size > 100, name
    # The start is the student, untouched.
    before, kept = load_file("student.safetensors"), load_file("out/start/seed-1/best.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)
    # Its validation images are those that this seed's training held out, and every number is evaluate's own.
    recipe = load_recipe("curve.yaml", ["training.seed=1"])
    _, held_out = split(project.train, 0.2, 1)
    asked = {"eps": 0.1, "attacks": ["pgd-2"]}
    start = evaluate(load_model("student.safetensors"), held_out.batches(), **asked)
    run = evaluate(load_model("out/gap_weight-2/seed-1"), held_out.batches(), **asked)
    found = content["points"][1]["runs"][1]
    assert found["validation"]["accuracy"] == {"clean": run["clean"], "robust": run["pgd-2"]}
    for ours, theirs in (("clean", "clean"), ("robust", "pgd-2")):
        expected = paired_difference(run.results[theirs].correct, start.results[theirs].correct)
        assert found["validation_change"][ours] == pytest.approx(expected)
    test = [
        evaluate(model, project.test.batches(), eps=0.1, attacks=["pgd-3"], examples=60).results["pgd-3"].correct
        for model in (load_model("out/gap_weight-2/seed-1"), build_models(recipe, project).student)
    ]
    assert found["test_change"]["pgd-3"] == pytest.approx(paired_difference(*test))
    # The costly attack sees the start and the chosen point alone.
    chosen = content["answer"]["value"]
    assert content["answer"]["achieved"]
    for value in (0.0, 2.0):
        there = [Path(f"out/gap_weight-{value:g}/seed-{seed}/best-confirmed.json").is_file() for seed in (0, 1)]
        assert there == [value == chosen] * 2
    confirmed = next(point for point in content["points"] if point["value"] == chosen)["runs"][0]["confirmed_change"]
    assert set(confirmed) == {"clean", "pgd-5"}

    # Nothing is done twice.
    files = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if "seed-" in str(path)}
    again, ended = go(project, seeds=(0, 1), at_most=100, confirmation=CONFIRMATION)
    assert ended == []
    assert again["answer"] == content["answer"]
    assert files == {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if "seed-" in str(path)}


def test_a_curve_between_start_and_trained_weights(project):
    """One training; every point is the line between two states, with statistics of its own."""
    sweep = load_curve("curve.yaml", "interpolation=0.5,0.25", out=Path("out"), evaluation=EVALUATION, at_most=100)
    board = sweep.open(project, since=time.time())
    ended = []
    content = sweep.run(board, project, on_progress=lambda watch: ended.append(watch.ended))
    assert [one for one in ended if one] == [
        f"{name}/seed-0" for name in ("start", *map("interpolation-{}".format, (1, 0.5, 0.25)))
    ]
    before, after, between = (
        load_file(f"out/{name}/seed-0/best.safetensors") for name in ("start", "interpolation-1", "interpolation-0.25")
    )
    for name, value in between.items():  # cnn-4 has no batch norm
        assert torch.allclose(value, before[name] + 0.25 * (after[name] - before[name]), atol=1e-6), name
    assert [point["value"] for point in content["points"]] == [0.25, 0.5, 1.0]
    run = evaluate(
        load_model("out/interpolation-0.25/seed-0"), project.test.batches(), eps=0.1, attacks=["pgd-3"], examples=60
    )
    assert content["points"][0]["runs"][0]["test"]["accuracy"]["pgd-3"] == run["pgd-3"]
    assert "Interpolation s: the start's weights" in Path("out/curve.md").read_text()

    # Weights between others are refused.
    result = Path("out/interpolation-0.5/seed-0/result.json")
    content = json.loads(result.read_text())
    content["interpolated"]["ends"].reverse()
    result.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"interpolation-0\.5/seed-0 .* lies between other weights than those of start"
    ):
        sweep.open(project)


def test_one_that_stops_in_an_attack_goes_on_there(project, monkeypatch):
    whole = run_one.measure
    calls = []

    def stop_at_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # two attacks a run: on test images and on validation images
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(run_one, "measure", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        go(project)
    content = json.loads(Path("out/curve.json").read_text())
    assert (content["answer"]["settled"], content["answer"]["value"]) == (False, None)
    assert (content["done"], content["total"]) == (2, 3)
    content, ended = go(project)
    assert ended == ["gap_weight-2/seed-0"]
    # A run whose validation images have not been attacked is not finished either.
    lost = Path("out/gap_weight-0/seed-0/best-validation.json")
    before = lost.read_text()
    lost.unlink()
    again, ended = go(project)
    assert ended == ["gap_weight-0/seed-0"]
    assert json.loads(lost.read_text())["correct"] == json.loads(before)["correct"]
    assert again["answer"] == content["answer"]


def test_a_value_that_diverges_is_a_result_and_no_answer(project):
    write(RECIPE | {"method": {"name": "tangent", "ramp": 0.0}, "training": RECIPE["training"] | {"grad_clip": 0.0}})
    sweep = load_curve("curve.yaml", "method.gap_weight=0,1e39", out=Path("out"), evaluation=EVALUATION)
    board = sweep.open(project, since=time.time())
    content = sweep.run(board, project, on_progress=lambda watch: None)
    point = content["points"][1]["runs"][0]
    assert point["status"] == "diverged"
    assert content["answer"]["settled"]
    assert content["answer"]["value"] != 1e39
    assert f"- {point['folder']} diverged: " in Path("out/curve.md").read_text()


def test_a_folder_of_another_curve(project):
    go(project)
    write(RECIPE | {"training": RECIPE["training"] | {"lr": 1e-4}})
    with pytest.raises(InputError, match=r"start/seed-0 .* training.lr is 0.005 there and 0.0001 here"):
        go(project)
    write(RECIPE)
    with pytest.raises(InputError, match=r"has other settings: images of clean is 60 there and 50 here"):
        go(project, evaluation=EvaluateSettings(("clean", "pgd-3"), 50, which=("best",)))
    sweep = load_curve("curve.yaml", OVER, out=Path("out"), evaluation=EVALUATION, at_most=0.0)
    board = sweep.open(project)
    assert sweep.report(board, project)["at_most"] == 0.0, "another bound needs no new run"


def test_a_confirmation_on_other_images_is_not_shown(project):
    asked = {"at_most": 100, "confirmation": CONFIRMATION}
    content, _ = go(project, **asked)
    chosen = f"gap_weight-{content['answer']['value']:g}"
    (other,) = {"gap_weight-0", "gap_weight-2"} - {chosen}
    shutil.copy(f"out/{chosen}/seed-0/best-confirmed.json", f"out/{other}/seed-0/best-confirmed.json")

    def confirmed(content):
        return [point["runs"][0]["confirmed"] is not None for point in content["points"]]

    content, _ = go(project, **asked)
    assert confirmed(content) == [True, True]
    content, _ = go(project, **(asked | {"confirmation": EvaluateSettings(("pgd-5",), 10, which=("best",))}))
    assert confirmed(content) == [f"gap_weight-{point['value']:g}" == chosen for point in content["points"]]


def points(*pairs, start=(0.9, 0.1), status="done"):
    """A content of these validation accuracies, clean and robust, by value 0, 1, ..."""
    changes = [{"clean": [clean - start[0]], "robust": [robust - start[1]]} for clean, robust in pairs]
    runs = [{"status": status, "validation_change": change} for change in changes]
    return {"at_most": 1.0, "points": [{"value": float(at), "runs": [run]} for at, run in enumerate(runs)]}


@pytest.mark.parametrize(
    ("pairs", "value"),
    [
        ([(0.90, 0.2), (0.895, 0.3), (0.88, 0.6)], 1.0),  # the most robust lost two points
        ([(0.90, 0.2), (0.89, 0.3), (0.88, 0.6)], 1.0),  # exactly one point is allowed
        ([(0.93, 0.2), (0.95, 0.1), (0.88, 0.6)], 0.0),
        ([(0.90, 0.3), (0.91, 0.3)], 1.0),  # of equals the one that lost less
        ([(0.80, 0.3), (0.85, 0.5)], None),  # all lost more
        ([(0.90, 0.1), (0.91, 0.05)], None),  # none gained
    ],
)
def test_the_answer(pairs, value):
    found = answer(points(*pairs), settled=True)
    assert (found["value"], found["achieved"], found["settled"]) == (value, value is not None, True)
    assert (found["why"] is None) == found["achieved"]


def test_the_answer_waits_and_counts_every_seed():
    content = points((0.9, 0.3), (0.9, 0.5))
    assert answer(content, settled=False)["value"] is None
    # Of two seeds one lost 0.5 and one 2 points: too much in the mean.
    high = {"status": "done", "validation_change": {"clean": [-0.005], "robust": [0.4]}}
    content["points"][1]["runs"] = [high, {**high, "validation_change": {"clean": [-0.02], "robust": [0.4]}}]
    assert answer(content, settled=True)["value"] == 0.0
    content["points"][0]["runs"][0]["status"] = "diverged"
    assert not answer(content, settled=True)["achieved"]
    assert answer(content, settled=True)["why"].startswith("every point that did not diverge lost more than 1 points")
    content["points"][1]["runs"][1]["status"] = "diverged"
    assert answer(content, settled=True)["why"] == "a run of every point diverged"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method.gap_weight=1, 0,1/4", ("gap_weight", (0.0, 0.25, 1.0))),
        ("method.steps=2", ("steps", (2.0,))),
        ("interpolation=0.5, 0.25", ("interpolation", (0.25, 0.5, 1.0))),
    ],
)
def test_values_of_a_coefficient(text, expected):
    assert parse_over(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("gap_weight=1", "training.lr=1", "method.gap_weight", "method.gap_weight=", "method.=1"),
        *("method.interpolation=1", "interpolation="),
    ],
)
def test_another_form_is_refused(text):
    with pytest.raises(InputError, match=r"--over was .*write it as method.KEY=VALUE"):
        parse_over(text)


def test_what_a_curve_cannot_do(project):
    def load(over=OVER, recipe=RECIPE, **options):
        write(recipe)
        return load_curve("curve.yaml", over, **options)

    with pytest.raises(InputError, match="finite numbers, each once"):
        load("method.gap_weight=1,1.0")
    with pytest.raises(InputError, match="'inf' is not a number"):
        load("method.gap_weight=inf")
    for shares in ("0,0.5", "0.5,1.5"):
        with pytest.raises(InputError, match="shares are above 0, which is the start, and at most 1"):
            load(f"interpolation={shares}")
    with pytest.raises(InputError, match="gap_wieght: unknown key; did you mean gap_weight"):
        load("method.gap_wieght=1")
    with pytest.raises(InputError, match=r"starts from a pre-trained student. Give student\.weights"):
        load(recipe=RECIPE | {"student": "cnn-4"})
    with pytest.raises(InputError, match="has rounds"):
        load(recipe=RECIPE | {"rounds": {"count": 2}})
    with pytest.raises(InputError, match="--at-most was -1"):
        load(at_most=-1)
    with pytest.raises(InputError, match="seeds were 0, 0"):
        load(seeds=(0, 0))
    with pytest.raises(InputError, match="examples was 0"):
        EvaluateSettings(("autoattack",), 0)
    sweep = load(recipe=RECIPE | {"teacher": {"name": "resnet8", "weights": "no.pt", "normalization": "none"}})
    with pytest.raises(InputError, match=r"start/seed-0: checkpoint 'no\.pt' does not exist"):
        sweep.open(project)
