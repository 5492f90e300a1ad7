"""The short form of ``python -m tests.faults.ingredients``: a few changes under each quick command."""

from __future__ import annotations

import pytest

from kdiga.workflows import result_folder
from tests.faults.combinations import COMMANDS
from tests.faults.ingredients import BOTH, Ingredients, differing

# The changes that each command's identity alone can notice; the long form has them all.
SAMPLE = {
    "train, finished": ["best weights", "test image"],
    "train, stopped": ["training label", "teacher weights"],
    "cache": ["training image", "teacher dtype"],
    "train from cache": ["order of training images"],
    "evaluate": ["run trained again", "version", "one folder, seed"],
    "certify": ["teacher weights", "sigma"],
    "explain": ["other student's weights"],
    "suitable": ["order of test images"],
    "export": ["best weights", "test label"],
    "study": ["class name", "attack seed"],
    "tune": ["training image more"],
    "report": ["run trained again"],
}


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
    return Ingredients(tmp_path_factory.mktemp("ingredients"))


@pytest.mark.parametrize(("command", "name"), [(one, name) for one, names in SAMPLE.items() for name in names])
def test_never_the_old_result(command, name, ingredients):
    assert ingredients.check(COMMANDS[command], name) in ("refused", "fresh")


def test_an_old_result_is_noticed(ingredients, monkeypatch):
    """A command that takes any earlier result for its own is found out."""

    def write(self, content, join=None):
        return result_folder.Outcome(dict(self.earlier) or content, self.folder)

    monkeypatch.setattr(result_folder, "differences", lambda there, here: "")
    monkeypatch.setattr(result_folder.ResultFolder, "write", write)
    with pytest.raises(AssertionError, match="neither refused nor fresh"):
        ingredients.check(COMMANDS["evaluate"], "one folder, seed")


def test_there_are_enough_combinations(ingredients):
    count = sum(len(list(ingredients.combinations(command))) for command in COMMANDS.values())
    assert count >= 200
    for command, names in SAMPLE.items():
        assert set(names) <= set(ingredients.combinations(COMMANDS[command]))


def test_differences_and_refusals():
    assert list(differing({"a": [1, 2], "seconds": 1}, {"a": [1, 3]}, more=False)) == [
        "a.1 is 2, and in a new folder 3"
    ]
    assert not list(differing({"a": 1, "b": 2}, {"a": 1}, more=True))
    assert BOTH.search("eps is 0.1 there and 0.2 here")
    assert not BOTH.search("it holds other results")
