"""Trackers: what they are told, and that a run does not depend on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

import kdiga
from kdiga.errors import InputError
from kdiga.training.result import EpochRecord
from kdiga.training.tracking import FOLDER, Trackers, values_of
from tests.conftest import five_layers

RECORD = EpochRecord(0, 0.1, {"label": 0.5}, {"label": 2.0}, 0.75, 0.25, 1.5)
TOLD = {
    "lr": 0.1,
    "epoch": 1.0,
    "seconds": 1.5,
    "term/label": 0.5,
    "weight/label": 2.0,
    "validation/clean": 0.75,
    "validation/robust": 0.25,
}


class Recorder(GeneralTracker):
    """Stands in for a service."""

    name = "tensorboard"
    requires_logging_directory = True
    made: list[Recorder]
    fails_at: tuple[str, ...] = ()

    def __init__(self, run_name, logging_dir, **_):
        super().__init__()
        self.run_name, self.logging_dir, self.logged, self.config, self.finished = run_name, logging_dir, [], None, 0
        self._act("init")
        type(self).made.append(self)

    def _act(self, what):
        if what in self.fails_at:
            raise OSError(f"no {what}\nat all")

    @property
    def tracker(self):
        return self

    def start(self):
        self._act("start")

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step, **_):
        self._act("log")
        self.logged.append((step, dict(values)))

    def finish(self):
        self._act("finish")
        self.finished += 1


@pytest.fixture
def recorder(monkeypatch):
    kind = type("Fresh", (Recorder,), {"made": []})
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", kind)
    monkeypatch.setattr("kdiga.training.tracking.find_spec", lambda name: name)
    return kind


def test_an_epoch_is_told_with_everything_that_was_measured(recorder, tmp_path):
    with Trackers(["tensorboard"], tmp_path, {"training": {"lr": 0.1}}, project="mine") as trackers:
        assert not recorder.made  # nothing before there is something to tell
        trackers.on_epoch(RECORD)
        trackers.on_epoch(EpochRecord(1, 0.0, {}, {}, None, None, 1.0))
    (made,) = recorder.made
    assert made.logged == [(1, TOLD), (2, {"lr": 0.0, "epoch": 2.0, "seconds": 1.0})]
    assert (made.run_name, made.config, made.finished) == ("mine", {"training.lr": 0.1}, 1)
    assert (tmp_path / FOLDER) in Path(made.logging_dir).parents
    assert values_of(RECORD) == TOLD


def test_steps_go_on_after_a_resumption_and_over_rounds(recorder, tmp_path):
    with Trackers(["tensorboard"], tmp_path, {}) as trackers:
        for epoch in (4, 5, 0, 1):
            trackers.on_epoch(EpochRecord(epoch, 0.1, {}, {}, None, None, 1.0))
    assert [step for step, _ in recorder.made[0].logged] == [5, 6, 7, 8]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(recorder, tmp_path, stripes, where):
    recorder.fails_at, told = (where,), []
    with Trackers(["tensorboard"], tmp_path, {}, on_trouble=told.append) as trackers:
        result = kdiga.distill(
            five_layers(1),
            None,
            stripes,
            method="ce",
            epochs=4,
            batch_size=20,
            lr=0.01,
            device="cpu",
            validation_steps=1,
            on_epoch=trackers.on_epoch,
        )
    assert told == [f"tensorboard failed (no {where} at all); training continues without it."]
    assert len(result.history) == 4


def test_tracking_changes_nothing_about_a_run(recorder, tmp_path, stripes):
    def trained(on_epoch):
        student = five_layers(1)
        kdiga.distill(
            student,
            None,
            stripes,
            method="ce",
            epochs=4,
            batch_size=20,
            lr=0.01,
            device="cpu",
            validation_steps=1,
            on_epoch=on_epoch,
        )
        return student.state_dict()

    with Trackers(["tensorboard"], tmp_path, {}) as trackers:
        followed = trained(trackers.on_epoch)
    alone = trained(None)
    assert len(recorder.made[0].logged) == 4
    assert all(torch.equal(value, alone[name]) for name, value in followed.items())


def test_names_and_packages(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="did you mean tensorboard"):
        Trackers(["tensorbord"], tmp_path, {})
    monkeypatch.setattr("kdiga.training.tracking.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"wandb is not installed; install it with: pip install 'kdiga\[wandb\]'"):
        Trackers(["wandb"], tmp_path, {})
    Trackers([], tmp_path, {})


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list[str] = []
    with Trackers(["tensorboard"], tmp_path, {"training": {"lr": 0.1}}, on_trouble=told.append) as trackers:
        trackers.on_epoch(RECORD)
        trackers.on_epoch(RECORD)
    assert told == []
    places = {path.parent for path in (tmp_path / FOLDER).rglob("events.out.*")}
    found = {}
    for place in places:
        events = EventAccumulator(str(place)).Reload()
        found |= {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}
    for name, value in TOLD.items():
        assert found[name] == [(1, pytest.approx(value)), (2, pytest.approx(value))]


def test_on_the_command_line(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tests.cli.test_cli import RECIPES, run

    quick = ["train", str(RECIPES / "digits-teacher.yaml"), "--set", "training.epochs=1", "--set", "student.name=cnn-4"]
    run(*quick, "--out", "one", "--track", "tensorboard", cwd=tmp_path)
    assert list((tmp_path / "one" / FOLDER).rglob("events.out.*"))
    assert "tensorboard" not in (tmp_path / "one/config.yaml").read_text()
    refused = run(*quick, "--out", "two", "--track", "tensorboad", cwd=tmp_path, expect=2)
    assert "did you mean tensorboard" in refused
    assert not (tmp_path / "two").exists()
