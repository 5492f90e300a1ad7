"""Recipes: strict, with every problem told at once, where it is and what is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdiga.errors import InputError
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.study import load_study
from kdiga.recipes.source import RECIPE, read_source
from kdiga.recipes.validate import load_recipe, recipe_from_dict

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
STUDIES = [path for path in FILES if path.name.startswith("study-")]
CLAIMS = [path for path in FILES if path.name.startswith("claims-")]
RECIPES = [path for path in FILES if path not in (*STUDIES, *CLAIMS)]

GOOD = """\
data: digits
student:
  name: cnn-8
  activation: silu
teacher: runs/teacher
method:
  name: kdiga
  gradient_weight: 2
threat:
  norm: Linf
  eps: 8/255
training:
  epochs: 3
  lr: 1e-3
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_is_valid(path):
    assert load_recipe(path).training.epochs >= 1


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_shipped_study_is_valid(path, tmp_path):
    study = load_study(path, tmp_path)
    # One seed is what their hours allow, and their results say so; any other study compares over several.
    once = ("study-cifar10-architectures.yaml", "study-gpu.yaml", "study-settings-cifar10.yaml")
    assert len(study.seeds) >= (1 if path.name in once else 2)
    assert (
        len({run_spec.recipe.data for run_spec in study.run_specs})
        == len({run_spec.recipe.threat for run_spec in study.run_specs})
        == 1
    )


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.name)
def test_every_shipped_test_of_claims_is_valid(path, tmp_path):
    claims = load_claims(path, tmp_path)
    grid = claims.grid
    assert grid.methods[grid.judged[0]] == "kdiga", "the verdict on a claim is that on the paper's own method"
    assert any(pair.pretrained for pair in grid.pairs), "claim c is about these"
    assert (
        len({run_spec.recipe.data for run_spec in claims.run_specs})
        == len({run_spec.recipe.threat for run_spec in claims.run_specs})
        == 1
    )
    assert {run_spec.recipe.training.seed for run_spec in claims.run_specs if run_spec.kind == "method"} == set(
        grid.seeds
    )
    for other in (load_recipe, load_study):
        with pytest.raises(InputError, match=r"is a test of claims, not a .*; run it with `kdiga claims`"):
            other(path)


def test_a_study_for_a_recipe_and_the_other_way_round(tmp_path):
    with pytest.raises(InputError, match="run it with `kdiga study`"):
        load_recipe(STUDIES[0])
    with pytest.raises(InputError, match="run it with `kdiga train`"):
        load_study(RECIPES[0], tmp_path)


def test_a_good_recipe(recipe):
    checked = load_recipe(recipe(GOOD))
    assert checked.method.gradient_weight == 2.0
    assert (checked.threat.norm, checked.threat.eps) == ("linf", 8 / 255)
    assert checked.training.lr == 1e-3
    assert checked.teacher.name == "runs/teacher"
    assert recipe_from_dict(checked.to_dict()) == checked


def test_overrides(recipe):
    overrides = ["training.seed=4", "method.gradient_weight=1/2", "threat.eps=0.2", "method.distance=l1", "data.root=x"]
    checked = load_recipe(recipe(GOOD), overrides)
    assert (checked.training.seed, checked.method.gradient_weight, checked.threat.eps) == (4, 0.5, 0.2)
    assert checked.method.distance == "l1"
    assert (checked.data.name, checked.data.root) == ("digits", "x")
    assert load_recipe(recipe(GOOD), ["method=kd"]).method.info.name == "kd"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "gradient_weight",
            "gradient_wieght",
            r"method.gradient_wieght: unknown key; did you mean gradient_weight\? .*:8\)",
        ),
        ("epochs", "epoch", r"training.epoch: unknown key; did you mean epochs\? .*:13\)"),
        ("training:", "traning:", r"traning: unknown key; did you mean training\?"),
        ("name: kdiga", "name: kdgia", r"method.name: 'kdgia' is not known; did you mean kdiga"),
        ("epochs: 3", "epochs: three", r"training.epochs: .*integer.* \(was 'three'\)"),
        ("epochs: 3", "epochs: 0", r"epochs was 0; it must be at least 1"),
        ("eps: 8/255", "eps: 8", r"Did you mean 8/255"),
        ("eps: 8/255", "eps: 8/0", r"is not a number"),
        ("norm: Linf", "norm: l7", r"norm"),
        ("teacher: runs/teacher", "", r"teacher: missing section; method kdiga needs one"),
        ("data: digits", "", r"data: missing section"),
        ("data: digits", "data: [1]", r"data: was \[1\]; it is a section"),
        ("  name: kdiga\n", "", r"method: needs a name"),
        ("  gradient_weight: 2", "  distance: l3", r"distance 'l3' is not known"),
    ],
)
def test_bad_recipes(old, new, message, recipe):
    with pytest.raises(InputError, match=message):
        load_recipe(recipe(GOOD.replace(old, new)))


@pytest.mark.parametrize("folder", [".", "2026/11", "1e3"])
def test_a_path_that_looks_like_a_number_stays_a_path(folder, recipe):
    assert load_recipe(recipe(GOOD.replace("digits", f"{{name: digits, root: '{folder}'}}"))).data.root == folder


def test_all_problems_are_told_at_once(recipe):
    bad = GOOD.replace("epochs", "epoch").replace("gradient_weight", "weight").replace("activation", "act")
    with pytest.raises(InputError) as error:
        load_recipe(recipe(bad))
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("", "holds no sections"),
        ("- 1", "holds no sections"),
        ("!!python/object:os.system {}", "not YAML"),
    ],
)
def test_files_that_are_no_recipes(text, message, recipe):
    with pytest.raises(InputError, match=message):
        load_recipe(recipe(text))


@pytest.mark.parametrize(
    ("sections", "refused"),
    [
        ({"method": "kd", "teacher": "cnn-8"}, True),
        ({"method": "kd", "teacher": "timm:vit_tiny_patch16_224"}, True),
        ({"method": "mtard", "teacher": "runs/robust", "second_teacher": "cnn-8"}, True),
        ({"method": "kd", "teacher": {"name": "cnn-8", "weights": "teacher.pt"}}, False),
        ({"method": "kd", "teacher": {"name": "timm:vit_tiny_patch16_224", "pretrained": True}}, False),
        ({"method": "ce", "teacher": "cnn-8"}, False),  # not used
        ({"method": "lbgat", "teacher": "cnn-8"}, False),
        ({"method": "peeraid", "teacher": "cnn-8"}, False),
    ],
)
def test_a_teacher_with_fresh_weights_has_nothing_to_teach(sections, refused):
    recipe = {"data": "digits", "student": "cnn-4"} | sections
    if not refused:
        assert recipe_from_dict(recipe)
        return
    with pytest.raises(InputError, match="has fresh weights, so it has nothing to teach"):
        recipe_from_dict(recipe)


def test_a_key_that_stands_twice(recipe):
    with pytest.raises(InputError, match=r"training.lr: appears twice \(.*recipe.yaml:3 and .*recipe.yaml:5\)"):
        load_recipe(recipe("data: digits\ntraining:\n  lr: 1e-3\n  epochs: 3\n  lr: 1e-2\n"))


def test_overrides_below_a_short_form(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("data: {name: digits, extra: more.npz}\nmethod: {name: rslad, with: kdiga}\nstudent: cnn-4\n")
    overrides = ["data.extra.share=0.5", "method.with.kdiga.gradient_weight=2", "student.activation=silu"]
    data = read_source(path, overrides, RECIPE).data
    assert data["data"]["extra"] == {"path": "more.npz", "share": 0.5}
    assert data["method"]["with"] == {"kdiga": {"gradient_weight": 2}}
    assert data["student"] == {"name": "cnn-4", "activation": "silu"}


def test_bad_paths_and_overrides(recipe, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="write it as key=value"):
        load_recipe(recipe(GOOD), ["training.seed"])
    with pytest.raises(InputError, match="did you mean seed"):
        load_recipe(recipe(GOOD), ["training.sede=1"])
