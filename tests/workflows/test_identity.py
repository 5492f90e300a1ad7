"""One ingredient of a run changed at a time: what continues, reuses or compares it refuses, and says both values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdiga
from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.experiments.claims.measurements import CERTIFIED, EXPLAINED
from kdiga.experiments.curve import CONFIRMED
from kdiga.recipes.validate import recipe_from_dict
from kdiga.report import write_page
from kdiga.report.differences import compare_evaluations
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.folders import find_results
from kdiga.results.shared import REPLACED, Conditions, command_without_folders
from kdiga.runs.run_folder import FAILURE
from kdiga.training.loop import TrainingCallbacks
from kdiga.workflows import identity
from kdiga.workflows.compare import compare
from kdiga.workflows.evaluate import run_evaluation
from kdiga.workflows.loaded_model import count_trained_images, load_test_set
from kdiga.workflows.prepare import prepare
from kdiga.workflows.requests import EvaluateRequest
from kdiga.workflows.train import run_recipe
from tests.report.samples import evaluation, write_json, write_run

TRAINING = {"epochs": 2, "batch_size": 40, "lr": 2e-2, "validation_steps": 1, "stop_at_chance": False}
EDGE = {"threat": {"norm": "linf", "eps": 0.1}, "training": TRAINING}


class StoppedError(Exception):
    """The end of a process."""


@pytest.fixture(scope="module")
def data(stripes):
    return DataSet("stripes", stripes, stripes, "made here")


@pytest.fixture(scope="module")
def world(data, tmp_path_factory):
    """A teacher's folder, a finished run of its student and one that was stopped after an epoch."""
    folder = tmp_path_factory.mktemp("identity")
    save_teacher(folder / "teacher.safetensors", 0)
    run = prepare(recipe_of(folder), data)
    run_recipe(run, folder / "finished")

    def stop(record):
        del record
        raise StoppedError

    started = []
    callbacks = TrainingCallbacks(on_epoch=lambda record: stop(record) if started else started.append(record))
    with pytest.raises(StoppedError):
        run_recipe(prepare(recipe_of(folder), data), folder / "stopped", callbacks=callbacks)
    return folder


def save_teacher(path, seed):
    torch.manual_seed(seed)
    kdiga.save_model(kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4), path)


def recipe_of(folder, **changes):
    sections = {
        "data": "stripes",
        "student": {"name": "cnn-4", "activation": "silu"},
        "teacher": {"name": str(folder / "teacher.safetensors")},
        "method": "kd",
        **EDGE,
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        inner = sections[section]
        inner = dict(inner) if isinstance(inner, dict) else {"name": inner}
        sections[section] = inner | {key: value}
    return recipe_from_dict(sections)


def other_images(data):
    train = data.train
    changed = train.images.clone()
    changed[0] = 1 - changed[0] if changed.dtype.is_floating_point else 255 - changed[0]
    return replace(data, train=replace(train, images=changed))


def other_labels(data):
    return replace(data, train=replace(data.train, labels=data.train.labels.roll(1)))


RECIPE_KEYS = {
    "method__name": ("kdiga", "method.name is 'kd' there and 'kdiga' here"),
    "method__temperature": (2.0, "method.temperature"),
    "threat__eps": (0.2, "threat.eps is 0.1 there and 0.2 here"),
    "threat__norm": ("l2", "threat.norm"),
    "student__name": ("cnn-8", "student.name is 'cnn-4' there and 'cnn-8' here"),
    "student__activation": ("relu", "student.activation is 'silu' there and 'relu' here"),
    "training__seed": (7, "training.seed is 0 there and 7 here"),
    "training__epochs": (3, "training.epochs"),
    "training__lr": (1e-3, "training.lr"),
    "training__precision": ("bf16", "training.precision is 'fp32' there and 'bf16' here"),
}
CONTENTS = ["teacher weights", "training images", "labels", "test images", "version"]


@pytest.mark.parametrize("place", ["finished", "stopped"])
@pytest.mark.parametrize("ingredient", [*RECIPE_KEYS, *CONTENTS])
def test_a_run_is_continued_by_its_own_recipe_alone(place, ingredient, world, data, tmp_path, monkeypatch):
    folder, changes, found = world / place, {}, data
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    expected = "training images" if ingredient == "labels" else ingredient
    if ingredient in RECIPE_KEYS:
        changes[ingredient], expected = RECIPE_KEYS[ingredient]
    elif ingredient == "teacher weights":
        save_teacher(tmp_path / "other.safetensors", 1)
        changes["teacher__name"] = str(tmp_path / "other.safetensors")
    elif ingredient == "training images":
        found = other_images(data)
    elif ingredient == "labels":
        found = other_labels(data)
    elif ingredient == "test images":
        found = replace(data, test=other_images(data).train)
    else:
        monkeypatch.setattr(identity, "installed_version", lambda name: "99")
        expected = "and '99' here"
    with pytest.raises(InputError, match="is another one: ") as refused:
        run_recipe(prepare(recipe_of(world, **changes), found), folder, resume=True)
    assert expected in str(refused.value)
    assert " there and " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_run_goes_on_from_another_place(world, data, tmp_path):
    """The same weights under another path, other workers, and a run of an earlier version without an identity."""
    save_teacher(tmp_path / "moved.safetensors", 0)
    moved = recipe_of(world, teacher__name=str(tmp_path / "moved.safetensors"), data__workers=0)
    first = run_recipe(prepare(moved, data), world / "finished", resume=True)
    kept = (world / "finished/identity.json").read_text()
    (world / "finished/identity.json").unlink()
    try:
        assert run_recipe(prepare(recipe_of(world), data), world / "finished", resume=True) == first
        with pytest.raises(InputError, match=r"threat\.eps is 0\.1 there and 0\.3 here"):
            run_recipe(prepare(recipe_of(world, threat__eps=0.3), data), world / "finished", resume=True)
    finally:
        (world / "finished/identity.json").write_text(kept)


@pytest.mark.parametrize("ingredient", ["student", "teacher", "training images", "validation images"])
def test_distill_continues_with_the_same_models_and_images_alone(ingredient, stripes, tmp_path):
    torch.manual_seed(0)
    given = {
        "student": kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4),
        "teacher": kdiga.load_model("cnn-8", in_channels=1, image_size=8, num_classes=4),
        "training images": stripes,
        "validation images": stripes,
    }

    def distill(**options):
        student, teacher, train, validation = given.values()
        kdiga.distill(student, teacher, train, method="kd", validation=validation, out=tmp_path, **TRAINING, **options)

    def stop(record):
        raise StoppedError

    with pytest.raises(StoppedError):
        distill(on_epoch=lambda record: stop(record) if record.epoch else None)
    given[ingredient] = {
        "student": kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4, activation="relu"),
        "teacher": kdiga.load_model("cnn-8", in_channels=1, image_size=8, num_classes=4),
        "training images": stripes.take(torch.arange(len(stripes)).roll(1)),
        "validation images": stripes.take(torch.arange(len(stripes)).roll(1)),
    }[ingredient]
    with pytest.raises(InputError, match=f"has {ingredient} .* and this one .*; resume with the same recipe"):
        distill(resume=True)


def test_overwrite_sets_results_about_the_old_weights_aside(world, data, tmp_path):
    run_recipe(prepare(recipe_of(world), data), tmp_path)
    old = json.loads((tmp_path / "result.json").read_text())["fingerprints"]["best"]
    write_json(tmp_path / "evaluation/a/evaluation.json", evaluation("kd") | {"fingerprint": old})
    (tmp_path / "evaluation/mine.txt").write_text("mine")
    about_the_weights = ("best-test.json", "last-test.json", "best-validation.json", CONFIRMED, CERTIFIED)
    for name in (*about_the_weights, EXPLAINED, FAILURE):
        write_json(tmp_path / name, {})
    run_recipe(prepare(recipe_of(world, training__seed=1), data), tmp_path, overwrite=True)
    assert not (tmp_path / "evaluation").exists()
    assert (tmp_path / REPLACED / "1/evaluation/mine.txt").read_text() == "mine"
    assert not any((tmp_path / name).exists() for name in (*about_the_weights, EXPLAINED, FAILURE))
    assert all((tmp_path / REPLACED / "1" / name).is_file() for name in about_the_weights)
    found = find_results([tmp_path])
    assert not found.evaluations
    assert len(found.runs) == 1
    with pytest.raises(InputError, match="holds no evaluation"):
        compare(tmp_path, tmp_path)


def test_results_of_other_weights_are_not_attributed_to_a_run(world, data, tmp_path):
    run_recipe(prepare(recipe_of(world), data), tmp_path)
    path = write_json(tmp_path / "evaluation/a/evaluation.json", evaluation("kd") | {"fingerprint": "f" * 64})
    with pytest.raises(InputError, match=f"evaluates the weights {'f' * 12}, but the run has .*evaluate it again"):
        compare(tmp_path, path)
    page = write_page([tmp_path])
    assert any("different best weights" in one.reason for one in page.left_out)


PAIRED = {
    "data": "cifar10",
    "threat": {"norm": "linf", "eps": 0.2},
    "data_fingerprint": "others",
    "seed": 3,
    "version": "rand",
}


@pytest.mark.parametrize("key", PAIRED)
def test_results_are_compared_under_equal_conditions_alone(key, tmp_path):
    one = EvaluationResult.read(write_json(tmp_path / "a/evaluation.json", evaluation("kd") | {"version": "standard"}))
    other = evaluation("tangent") | {"version": "standard", key: PAIRED[key]}
    two = EvaluationResult.read(write_json(tmp_path / "b/evaluation.json", other))
    with pytest.raises(InputError, match=f"differ in {key}") as refused:
        compare_evaluations(one, two)
    assert "\n" not in str(refused.value)


class Wrapped(torch.nn.Module):
    """A model whose attributes are in neither its weights nor its printed form."""

    def __init__(self, model, scale=1.0, before=None, straight=False):
        super().__init__()
        self.model, self.scale, self.before, self.straight = model, scale, before, straight

    def forward(self, images):
        seen = images if self.before is None else self.before(images)
        if self.straight:
            seen = seen.detach() + 0 * images
        return self.scale * self.model(seen)


@pytest.mark.parametrize(
    "other", [{"scale": 1e-3}, {"before": lambda images: (images * 4).round() / 4}, {"straight": True}]
)
def test_attacks_on_a_module_with_other_attributes_are_new(other, stripes, tmp_path):
    torch.manual_seed(0)
    model = kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4)

    def measure(folder, **options):
        batches = stripes.take(slice(40)).batches()
        found = kdiga.evaluate(Wrapped(model, **options), batches, eps=0.3, attacks=["pgd-3"], folder=folder)
        return found.to_dict()["correct"]

    first = measure(tmp_path)
    stored = len(list(tmp_path.glob("*.json")))
    assert measure(tmp_path) == first
    assert len(list(tmp_path.glob("*.json"))) == stored, "the same module continues"
    assert measure(tmp_path, **other) == measure(None, **other)
    assert len(list(tmp_path.glob("*.json"))) > stored


def test_relative_data_is_that_of_the_folder_where_the_run_was_started(stripes, tmp_path, monkeypatch):
    for place, shift in (("there", 0), ("here", 1)):
        for number in range(4):
            folder = tmp_path / place / "d" / f"c{(number + shift) % 4}"
            folder.mkdir(parents=True)
            for row in range(20):
                pixels = np.full((8, 8), 60 * number, np.uint8)
                pixels[0, row % 8] = row
                Image.fromarray(pixels).save(folder / f"{number}-{row}.png")
    monkeypatch.chdir(tmp_path / "there")
    run = prepare(recipe_from_dict({"data": "d", "student": "cnn-4", "method": "ce", **EDGE}))
    (tmp_path / "there/run").mkdir()
    identity.write_identity(run, tmp_path / "there/run")
    given = load_test_set(["run"])
    monkeypatch.chdir(tmp_path / "here")
    found = load_test_set(["../there/run"])
    assert found.about() == given.about() | {"data_from": str(tmp_path / "there")}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/alice/secret/d", "d"),
        ("wds:/home/alice/shards", "wds:shards"),
        ("~/secret/d", "d"),
        ("kdiga train r.yaml --set data=/home/alice/d --out=/home/alice/x", "kdiga train r.yaml --set data=d --out=x"),
        ("kdiga evaluate runs/a --eps 8/255", "kdiga evaluate runs/a --eps 8/255"),
        ("timm:resnet18", "timm:resnet18"),
    ],
)
def test_published_text_names_no_user(given, shown):
    assert command_without_folders(given) == shown
    assert "alice" not in str(Conditions(given, "linf", 0.1)) or given.startswith("kdiga")


def test_a_teacher_alone_is_reported(tmp_path):
    """With several attacks, and students that were trained and not evaluated."""
    write_run(tmp_path / "runs/teacher", "teacher", None)
    write_run(tmp_path / "runs/kd", "kd")
    found = evaluation("teacher") | {"command": "kdiga evaluate /home/secret/teacher --out=/home/secret/a"}
    write_json(tmp_path / "runs/teacher/evaluation/a/evaluation.json", found)
    page = write_page([tmp_path]).path.read_text()
    assert "secret" not in page


@pytest.mark.filterwarnings("ignore:training collapsed:kdiga.errors.KdigaWarning")
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_evaluation_counts_the_test_images_that_its_run_was_trained_on(in_memory, tmp_path, monkeypatch):
    """Two test images are copies of training images under other names; pixels or files are compared."""
    monkeypatch.chdir(tmp_path)
    for number in range(44):
        part = "train" if number < 32 else "test"
        folder = tmp_path / "d" / part / f"c{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        seen = number - 32 if number in (32, 33) else number
        pixels = np.full((8, 8), 5 * seen, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    recipe = {"data": {"name": "d", "in_memory": in_memory, "workers": 0}, "student": "cnn-4", "method": "ce", **EDGE}
    recipe["training"] = TRAINING | {"epochs": 1, "validation_share": 0.25}
    run_recipe(prepare(recipe_from_dict(recipe)), Path("run"))
    ask = {"model": "run", "attacks": ("clean",)}
    content = run_evaluation(EvaluateRequest(**ask)).content
    assert content["trained_test_images"] == 2
    finding = next(one for one in content["findings"] if one["name"] == "trained-on")
    assert (finding["verdict"], finding["message"].split(",")[0]) == (
        "failed",
        "The model was trained on 2 of the 12 test images",
    )
    for number in (32, 33):
        (tmp_path / f"d/test/c{number % 4}/{number}.png").unlink()
    assert run_evaluation(EvaluateRequest(**ask)).content["trained_test_images"] == 0
    Path("run/trained-images.npz").unlink()
    assert count_trained_images("run", load_test_set(["run"])) is None


def test_weights_of_another_program_in_a_finished_run_are_noticed(world, data, tmp_path):
    run_recipe(prepare(recipe_of(world), data), tmp_path)
    save_teacher(tmp_path / "best.safetensors", 1)
    with pytest.raises(InputError, match=r"holds the weights \w{12}, and its run's result.json is of \w{12}"):
        run_recipe(prepare(recipe_of(world), data), tmp_path, resume=True)
