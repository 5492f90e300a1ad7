"""Recipes with a cache: which are refused before anything loads, and whose signals a store is taken for."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

import kdiga
from kdiga.errors import InputError
from kdiga.methods import available_methods
from kdiga.recipes.validate import recipe_from_dict
from kdiga.workflows.cache import compare_with_live, fill_cache, plan_cache, stored_teacher
from kdiga.workflows.prepare import prepare
from kdiga.workflows.train import run_recipe
from tests.training.test_loop import small

BASE = {"data": {"name": "digits", "train_examples": 400}, "student": "cnn-4", "threat": {"norm": "linf", "eps": 0.1}}
TRAINING = {"epochs": 4, "batch_size": 20, "lr": 1e-2, "validation_steps": 2, "augment": "crop"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A teacher, and a filled store of it."""
    folder = tmp_path_factory.mktemp("project")
    recipe = recipe_from_dict(BASE | {"method": "ce", "student": "cnn-8", "training": TRAINING})
    run_recipe(prepare(recipe), folder / "teacher")
    kdiga.save_model(small(1, "cnn-8", classes=10), folder / "other.safetensors")
    recipe = cached(folder)
    fill_cache(plan_cache(prepare(recipe)))
    return folder


def cached(folder, **sections):
    """The recipe of the store, sections laid over."""
    data = BASE | {
        "method": {"name": "kdiga", "gradient_weight": 0.5},
        "teacher": str(folder / "teacher"),
        "training": TRAINING,
        "cache": {"folder": str(folder / "store"), "shard_examples": 100, "dtype": "fp32"},
    }
    for name, section in sections.items():
        data[name] = data[name] | section if isinstance(section, dict) and name in ("training", "cache") else section
    return recipe_from_dict(data)


def refused(name: str) -> bool:
    needs = available_methods()[name]().needs
    return needs.teachers != 1 or needs.teacher_queries or needs.trains_teacher


@pytest.mark.parametrize("name", available_methods())
def test_methods_that_a_store_can_teach(name):
    sections = BASE | {"method": name, "teacher": "nowhere", "second_teacher": "nowhere", "cache": {"folder": "x"}}
    if not refused(name):
        assert recipe_from_dict(sections).cache.views == 4
        return
    with pytest.raises(InputError, match=rf"^cache: method {name} .*leave the section out"):
        recipe_from_dict(sections)


def test_options_and_rounds_decide_too():
    sections = BASE | {"teacher": "nowhere", "cache": {"folder": "x"}}
    with pytest.raises(InputError, match=r"training.precision: was 'auto'.*fp32 or bf16"):
        recipe_from_dict(sections | {"method": "kdiga", "training": {"precision": "auto"}})
    with pytest.raises(InputError, match="queries its teacher on perturbed images, which are not in a cache"):
        recipe_from_dict(sections | {"method": {"name": "kdiga", "random_start": True}})
    with pytest.raises(InputError, match="each round has a new teacher"):
        recipe_from_dict(sections | {"method": "kdiga", "rounds": {"count": 2}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"views": 0}, "views was 0; it must be at least 1"),
        ({"downsample": 0}, "downsample was 0"),
        ({"shard_examples": 0}, "shard_examples was 0"),
        ({"dtype": "fp8"}, r"cache.dtype: .*'fp32', 'fp16' or 'int8'"),
        ({"view": 2}, r"cache.view: unknown key; did you mean views\?"),
        ({"folder": 3}, r"cache.folder: .*string"),
    ],
)
def test_bad_sections(section, message):
    with pytest.raises(InputError, match=message):
        recipe_from_dict(BASE | {"method": "kdiga", "teacher": "nowhere", "cache": {"folder": "x"} | section})
    with pytest.raises(InputError, match=r"cache\.folder: Field required"):
        recipe_from_dict(BASE | {"method": "kdiga", "teacher": "nowhere", "cache": {"views": 2}})


def test_a_cached_run_equals_the_live_one_and_says_what_it_read(project, tmp_path):
    recipe = cached(project)
    result = run_recipe(prepare(recipe), tmp_path / "stored")
    run_recipe(prepare(replace(recipe, cache=None)), tmp_path / "live")  # 4 epochs, 4 views
    one, two = (kdiga.load_model(tmp_path / name, which="last").state_dict() for name in ("stored", "live"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert result["passes"]["teacher_forwards"] == 0
    saved = json.loads((tmp_path / "stored/result.json").read_text())["teacher_cache"]
    assert saved["folder"] == str(project / "store")
    assert (saved["views"], saved["dtype"], saved["filled_with"]["batch_size"]) == (4, "fp32", 20)
    assert "teacher_cache" not in json.loads((tmp_path / "live/result.json").read_text())
    assert recipe_from_dict(recipe.to_dict()) == recipe


MISMATCHES = {
    "seed": ({"training": {"seed": 1}}, "seed is 0 there and 1 here"),
    "augment": ({"training": {"augment": "crop-flip"}}, "augmentation is .*flip=False.* there and .*flip=True"),
    "precision": ({"training": {"precision": "bf16"}}, "precision is 'fp32' there and 'bf16' here"),
    "validation": ({"training": {"validation_share": 0.2}}, "examples is 360 there and 320 here"),
    "examples": ({"data": {"name": "digits", "train_examples": 300}}, "examples is 360 there and 270 here"),
    "views": ({"cache": {"views": 3}}, "views is 4 there and 3 here"),
    "dtype": ({"cache": {"dtype": "int8"}}, "dtype is 'fp32' there and 'int8' here"),
    "downsample": ({"cache": {"downsample": 2}}, "downsample is 1 there and 2 here"),
    "shards": ({"cache": {"shard_examples": 50}}, "shard_examples is 100 there and 50 here"),
    "score": ({"method": {"name": "kdiga", "gradient_of": "logit"}}, "gradient_of is 'loss' there and 'logit' here"),
    "teacher": ({"teacher": "{folder}/other.safetensors"}, r"teacher is '\w+\.\.\. there and '\w+\.\.\. here"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_store_of_something_else(case, project, tmp_path):
    sections, message = MISMATCHES[case]
    if case == "teacher":
        sections = {"teacher": str(project / "other.safetensors")}
    recipe = cached(project, **sections)
    with pytest.raises(InputError, match=rf"does not fit this run: .*{message}.*kdiga cache RECIPE"):
        run_recipe(prepare(recipe), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=rf"{message}.*choose another cache\.folder, or replace it with --overwrite"):
        plan_cache(prepare(recipe))


def test_settings_that_no_signal_depends_on(project):
    recipe = cached(project, training={"lr": 0.02, "epochs": 9, "batch_size": 30, "validation_examples": 5})
    recipe = replace(recipe, student=replace(recipe.student, name="cnn-8"))
    assert stored_teacher(prepare(recipe)).store.manifest.views == 4
    kd = cached(project, method="kd")
    assert plan_cache(prepare(kd)).store.manifest.gradient_of == "loss"


def test_a_bad_store_costs_no_earlier_run(project, tmp_path):
    recipe = cached(project)
    run_recipe(prepare(recipe), tmp_path / "run")
    before = (tmp_path / "run/result.json").read_bytes()
    nowhere = replace(recipe, cache=replace(recipe.cache, folder=str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"no teacher cache is in .*; fill it with `kdiga cache RECIPE`"):
        run_recipe(prepare(nowhere), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run/result.json").read_bytes() == before
    assert run_recipe(prepare(nowhere), tmp_path / "run", resume=True) == json.loads(before), (
        "finished, so nothing is read"
    )


def test_without_augmentation_one_view_is_all(project, tmp_path):
    recipe = cached(project, training={"augment": "none"}, cache={"folder": str(tmp_path), "views": 4})
    plan = plan_cache(prepare(recipe))
    assert plan.store.manifest.views == 1
    fill_cache(plan)
    assert compare_with_live(plan).gradients == 0
    assert run_recipe(prepare(recipe), tmp_path / "run")["teacher_cache"]["views"] == 1


def test_room_is_looked_for_first(project, tmp_path, monkeypatch):
    recipe = cached(project, cache={"folder": str(tmp_path / "deep/store")})
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2 * 10**6 - 1_000_000))
    with pytest.raises(InputError, match=r"needs 429\.\d kB more in .*1\.0 MB are free; .*int8, or cache.downsample 2"):
        plan_cache(prepare(recipe))
    assert not (tmp_path / "deep").exists()
    there = cached(project)
    assert not plan_cache(prepare(there)).missing, "a full disk does not matter to a full store"
