"""A run's folder at the moments when something goes wrong with it."""

from __future__ import annotations

import errno
import threading

import pytest

from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.io.atomic_write import WriteError
from kdiga.io.file_lock import file_lock
from kdiga.recipes.validate import recipe_from_dict
from kdiga.training.loop import TrainingCallbacks
from kdiga.workflows import train as module
from kdiga.workflows.prepare import prepare
from kdiga.workflows.train import run_recipe

TRAINING = {"epochs": 4, "batch_size": 20, "lr": 2e-2, "validation_steps": 2}
RECIPE = {"data": "stripes", "student": "cnn-4", "method": "ce", "training": TRAINING, "threat": {"eps": 0.1}}


@pytest.fixture(scope="module")
def data(stripes):
    return DataSet("stripes", stripes, stripes, "made here")


@pytest.mark.parametrize("file", ["last.safetensors", "best.safetensors", "result.json"])
def test_a_disk_too_full_for_the_weights_costs_no_training(file, data, tmp_path, monkeypatch):
    def refuse(name):
        real = getattr(module, name)

        def write(*arguments, **more):
            if any(str(one).endswith(file) for one in arguments) or (file == "result.json" and name == "write_result"):
                raise WriteError(file, errno.ENOSPC)
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, write)

    recipe = recipe_from_dict(RECIPE)
    whole = run_recipe(prepare(recipe, data), tmp_path / "whole")
    refuse("save_model")
    refuse("write_result")
    with pytest.raises(WriteError):
        run_recipe(prepare(recipe, data), tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out/state.pt").is_file()
    steps = []
    result = run_recipe(
        prepare(recipe, data),
        tmp_path / "out",
        resume=True,
        callbacks=TrainingCallbacks(lambda *step: steps.append(step)),
    )
    assert steps == []
    assert result["validation"]["best"]["robust"] == whole["validation"]["best"]["robust"]
    same = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "out")]
    assert same[0] == same[1]
    assert not (tmp_path / "out/state.pt").exists()


def test_the_state_that_a_kill_left_beside_a_result_is_removed(data, tmp_path):
    recipe = recipe_from_dict(RECIPE)
    result = run_recipe(prepare(recipe, data), tmp_path)
    (tmp_path / "state.pt").write_bytes(b"a state")
    assert run_recipe(prepare(recipe, data), tmp_path, resume=True) == result
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_one_process_at_a_time(options, data, tmp_path):
    (tmp_path / "journal.jsonl").write_text("mine\n")
    ready, done = threading.Event(), threading.Event()

    def hold():
        with file_lock(tmp_path, "run") as mine:
            assert mine
            ready.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    ready.wait(30)
    try:
        with pytest.raises(InputError, match=r"run folder .* is in use by another process"):
            run_recipe(prepare(recipe_from_dict(RECIPE), data), tmp_path, **options)
    finally:
        done.set()
        other.join()
    assert (tmp_path / "journal.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_that_cannot_be_is_told_by_its_name(options, data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        InputError, match=r"^output folder '.*/file/run' cannot be used \(.*\); choose another --out\.$"
    ):
        run_recipe(prepare(recipe_from_dict(RECIPE), data), tmp_path / "file/run", **options)
    assert (tmp_path / "file").read_text() == "mine"
