"""One ingredient of a study changed at a time in a folder with finished cells: refused, with both values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kdiga
from kdiga.errors import InputError
from kdiga.recipes.schema import DataConfig
from kdiga.workflows import identity
from kdiga.workflows.prepare import load_recipe_data
from tests.experiments.conftest import TINY
from tests.experiments.test_run import go

TEXT = TINY.replace("teacher: robust", "teacher: a/teachers/big.safetensors").replace("seeds: [0, 1]", "seeds: [0]")
TEXT = TEXT.replace("teachers:\n  robust: {student: cnn-8, method: ce}\n", "").replace("  ce: ce\n", "")
TEXT = TEXT.replace("epochs: 3", "epochs: 1").replace(
    "validation_steps: 2", "validation_steps: 1, stop_at_chance: false"
)
CHANGES = {
    "teacher path": r"teacher.name is 'a/teachers/big.safetensors' there and 'b/teachers/big.safetensors' here",
    "teacher weights": r"teacher weights is '\w+' there and '\w+' here|teacher weights is \w+ there and \w+ here",
    "seed": r"seed is 0 there and 7 here.*attacked again",
    "training images": r"training images is \w+ there and \w+ here",
    "test images": r"test images is \w+ there and \w+ here",
    "version": r"kdiga is '.*' there and '99' here",
    "recipe": r"method.temperature is 4.0 there and 5.0 here",
    "eps": r"threat.eps is 0.1 there and 0.2 here",
}


def save_teacher(path, seed):
    torch.manual_seed(seed)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    kdiga.save_model(kdiga.load_model("cnn-4", in_channels=1, image_size=8), path)


def with_other_first(images):
    return replace(images, images=torch.cat([255 - images.images[:1], images.images[1:]]))


def test_finished_cells_belong_to_what_made_them(study, monkeypatch):
    data = load_recipe_data(DataConfig("digits", train_examples=400))
    for folder in "ab":
        save_teacher(f"{folder}/teachers/big.safetensors", 0)
    content, _ = go(study(text=TEXT), data)
    assert content["done"] == content["total"] == 1
    report = json.loads(Path("out/kd/seed-0/best-test.json").read_text())
    assert report["data_fingerprint"]
    assert report["fingerprint"] == json.loads(Path("out/kd/seed-0/result.json").read_text())["fingerprints"]["best"]
    replaced = {
        "teacher path": ("a/teachers", "b/teachers"),
        "seed": (" examples: 40}", " examples: 40, seed: 7}"),
        "recipe": ("temperature: 4", "temperature: 5"),
        "eps": ("eps: 0.1", "eps: 0.2"),
    }
    for ingredient, message in CHANGES.items():
        with monkeypatch.context() as patch:
            changed = data
            if ingredient == "teacher weights":
                save_teacher("a/teachers/big.safetensors", 1)
            elif ingredient == "training images":
                changed = replace(data, train=with_other_first(data.train))
            elif ingredient == "test images":
                changed = replace(data, test=with_other_first(data.test))
            elif ingredient == "version":
                patch.setattr(identity, "installed_version", lambda name: "99")
            given = [replaced[ingredient]] if ingredient in replaced else []
            with pytest.raises(InputError, match=message):
                go(study(*given, text=TEXT), changed)
            save_teacher("a/teachers/big.safetensors", 0)
    _, ended = go(study(text=TEXT), data)
    assert ended == []
