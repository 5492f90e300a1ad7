"""A folder of images on disk, through the commands."""

from __future__ import annotations

import json
import re

import pytest

from kdiga.data import FileSet
from kdiga.errors import InputError
from kdiga.recipes.validate import load_recipe
from kdiga.workflows.loaded_model import load_judged_model, load_test_set
from kdiga.workflows.prepare import load_recipe_data
from tests.cli.test_cli import run
from tests.data.pictures import class_folders


def test_a_folder_in_every_command(tmp_path):
    folder = class_folders(tmp_path / "pictures", each=20)
    text = f"""\
data: {{name: {folder}, image_size: 16, in_memory: false, workers: 0}}
student: cnn-4
method: ce
training: {{epochs: 6, batch_size: 8, lr: 1e-2, validation_share: 0.3, augment: resized-crop-flip, validation_steps: 1}}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert isinstance(load_recipe_data(recipe.data).train, FileSet)
    (folder / "class-0" / "list.txt").write_text("a list")
    trained = run("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
    assert "ignored, because they are not images: 1 (1 .txt) in" in trained
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["classes"] == ["class-0", "class-1", "class-2"]
    assert "decoded when needed by 0 further processes" in run("train", "recipe.yaml", "--dry-run", cwd=tmp_path)
    run("evaluate", "run", "--attacks", "clean", "--examples", "5", cwd=tmp_path)
    profile = run("profile", "recipe.yaml", "--steps", "1", cwd=tmp_path)
    assert re.search(r"The whole run, fp32, takes [\d.e-]+ hours with its checks on 1 threads of", profile)
    kd = "method: kd\nteacher: run\ncache: {folder: store}"
    (tmp_path / "distil.yaml").write_text((tmp_path / "recipe.yaml").read_text().replace("method: ce", kd))
    cached = run("cache", "distil.yaml", cwd=tmp_path)
    assert "33 examples, 4 views" in cached
    assert "logits 0.0e+00" in cached, "the store holds what the teacher says of the very same views"
    run("train", "distil.yaml", "--out", "student", cwd=tmp_path)
    (folder / "class-1").rename(folder / "class-9")
    with pytest.raises(InputError, match="was trained with class 1 named 'class-1', and the images have 'class-2'"):
        load_judged_model(str(tmp_path / "run"), load_test_set([str(tmp_path / "run")]))
