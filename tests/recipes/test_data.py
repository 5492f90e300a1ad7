"""The data section: a part of the training images, the same for every seed."""

from __future__ import annotations

import pytest
import torch

from kdiga.data import load_data
from kdiga.errors import InputError
from kdiga.recipes.schema import DataConfig
from kdiga.recipes.validate import recipe_from_dict
from kdiga.workflows.prepare import build_models, load_recipe_data


def test_a_part_of_the_training_images():
    whole, part = load_data("digits"), load_recipe_data(DataConfig("digits", train_examples=500))
    assert (len(part.train), len(part.test)) == (500, len(whole.test))
    shares = [torch.bincount(data.train.labels).double() / len(data.train) for data in (whole, part)]
    assert float((shares[0] - shares[1]).abs().max()) < 0.005
    assert torch.equal(part.train.images, load_recipe_data(DataConfig("digits", train_examples=500)).train.images)


@pytest.mark.parametrize("count", [0, -5, 10**6])
def test_a_part_that_cannot_be_had(count):
    with pytest.raises(InputError, match=f"train_examples was {count}"):
        load_recipe_data(DataConfig("digits", train_examples=count))


def test_a_fresh_teacher_neither_equals_the_student_nor_changes_it():
    """As lbgat and peeraid have: same architecture, own weights."""
    sections = {"data": "digits", "student": "cnn-4", "method": "lbgat"}
    data = load_data("digits")
    alone = build_models(recipe_from_dict(sections | {"method": "ce"}), data)
    both = build_models(recipe_from_dict(sections | {"teacher": "cnn-4", "second_teacher": "cnn-4"}), data)
    weights = [model.state_dict()["network.0.weight"] for model in both if model is not None]
    assert len(weights) == 3
    assert torch.equal(weights[0], alone.student.state_dict()["network.0.weight"])
    assert not any(torch.equal(weights[a], weights[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
