"""An interrupted run ends bit-equal to an uninterrupted one, wherever it was stopped."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError, InterruptedRunError
from kdiga.model_state import seeded
from kdiga.training import resume
from kdiga.training.interruption import CONTINUE, SAVE, Interruption
from kdiga.types import ThreatModel
from tests.training.test_loop import small

THREAT = ThreatModel("linf", 0.1)
QUICK = {"batch_size": 40, "lr": 2e-2, "validation_steps": 2, "augment": "crop-flip", "threat": THREAT, "epochs": 3}
STEPS = 27  # of the runs here: 3 epochs of 9


class StoppedError(Exception):
    pass


def stop_at(step: int, run, folder, **settings) -> None:
    """Start a run, and let an error end it after a step."""

    def die(done, total):
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(folder, on_step=die, **settings)


def dropping(seed: int) -> nn.Module:
    """A network that draws random numbers in every forward pass, with batch norm."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(216, 4)
        )


CASES = {
    "start": ({"method": kdiga.methods.pgd_at.PGDAT(steps=2), "schedule": "cosine"}, small),
    "memory": ({"method": kdiga.methods.mtard.MTARD(steps=2, balance_rate=0.3)}, small),
    "trained teacher": ({"method": kdiga.methods.peeraid.PeerAiD(steps=2), "epochs": 6}, small),
    "dropout": ({"method": "tangent", "optimizer": "sgd", "lr": 0.1}, dropping),
    "probes": ({"method": "kdiga", "route": "finite-difference"}, dropping),
    "average": ({"method": "kd", "ema": 0.9}, dropping),
    "micro-batches": ({"method": "kdiga", "accumulate": 2, "route": "exact", "ema": 0.8}, dropping),
}


def options(case, stripes, robust):
    more, build = CASES[case]
    settings = QUICK | more
    along = case == "trained teacher"
    teacher = small(3, "cnn-8") if along else robust

    def run(out, seed=1, **others):
        fresh = small(3 if seed == 1 else 98, "cnn-8") if along else teacher
        return kdiga.distill(build(seed), fresh, stripes, second_teacher=robust, out=out, **(settings | others))

    return run


@pytest.fixture(scope="module")
def robust(stripes):
    teacher = small(2, "cnn-8")
    kdiga.distill(teacher, None, stripes, method="ce", **(QUICK | {"epochs": 2}))
    return teacher


@pytest.fixture
def saving(monkeypatch):
    """Save after so many steps, in place of minutes."""

    def every(count):
        asked = [0]

        def wish(self):
            asked[0] += 1
            return self._signal or (SAVE if asked[0] % count == 0 else CONTINUE)

        monkeypatch.setattr(Interruption, "request", wish)

    return every


def journal(folder):
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line | {"seconds": 0} for line in lines]


def same(one, two):
    pairs = ((one.last_state, two.last_state), (one.best_state, two.best_state))
    return all(torch.equal(value, theirs[name]) for ours, theirs in pairs for name, value in ours.items())


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_steps(case, stripes, robust, tmp_path, saving):
    run = options(case, stripes, robust)
    whole = run(tmp_path / "whole")
    saving(3)
    dice = random.Random(case)
    kills = sorted(dice.sample(range(5, STEPS), 3))
    for place, kill in enumerate(kills):
        stop_at(kill, run, tmp_path / "parts", seed=1 if place == 0 else 97, resume=place > 0)
    resumed = run(tmp_path / "parts", seed=97, resume=True)
    assert same(whole, resumed), kills
    assert journal(tmp_path / "whole") == journal(tmp_path / "parts")
    assert whole.passes == resumed.passes
    assert [path.name for path in (tmp_path / "parts").glob("state.pt*")] == ["state.pt"]


def test_nothing_is_done_twice(stripes, robust, tmp_path, saving):
    """The state of the middle of an epoch is what is gone on from."""
    saving(1)
    seen = []

    def stop(done, total):
        seen.append(done)
        if done == 14:
            raise StoppedError

    run = options("start", stripes, robust)
    with pytest.raises(StoppedError):
        run(tmp_path, on_step=stop)
    first = len(seen)
    run(tmp_path, resume=True, on_step=lambda done, total: seen.append(done))
    assert seen[first:] == list(range(14, STEPS + 1))  # step 14 was taken, and not yet saved


@pytest.fixture
def heard():
    """A shell's background jobs are started deaf to Ctrl-C, and so would be a suite among them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number, stripes, robust, tmp_path):
    run = options("average", stripes, robust)
    whole = run(tmp_path / "whole")
    before = signal.getsignal(number)

    def send(done, total):
        if done == 13:
            os.kill(os.getpid(), number)

    with pytest.raises(InterruptedRunError, match=f"after step 13 of {STEPS}.*--resume") as stopped:
        run(tmp_path / "parts", on_step=send)
    assert stopped.value.exit_status == stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    taken = []
    resumed = run(tmp_path / "parts", seed=96, resume=True, on_step=lambda done, total: taken.append(done))
    assert taken[0] == 14
    assert same(whole, resumed)


@pytest.mark.usefixtures("heard")
def test_a_second_signal_ends_at_once(stripes, robust, tmp_path, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("kdiga.training.interruption.time.monotonic", lambda: float(next(now) * 10))

    def send(done, total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Interruption.__init__, "__defaults__", (lambda: float(next(now) * 10),))
    with pytest.raises(KeyboardInterrupt):
        options("start", stripes, robust)(tmp_path, on_step=send)
    assert not (tmp_path / "state.pt").exists()


def test_a_signal_during_validation_is_heeded_after_it(stripes, robust, tmp_path):
    run = options("start", stripes, robust)
    whole = run(tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match="after epoch 2 of 3"):
        run(tmp_path / "parts", on_epoch=lambda record: record.epoch == 1 and os.kill(os.getpid(), signal.SIGTERM))
    assert same(whole, run(tmp_path / "parts", seed=95, resume=True))


@pytest.mark.usefixtures("heard")
def test_without_a_folder_signals_do_what_they_always_do(stripes, robust):
    def send(done, total):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        options("start", stripes, robust)(None, on_step=send)


def test_killed_while_writing_keeps_the_earlier_state(stripes, robust, tmp_path, saving, monkeypatch):
    saving(5)
    run = options("start", stripes, robust)
    whole = run(tmp_path / "whole")
    written, save = [], torch.save

    def half(content, file):
        written.append(content["progress"]["position"])
        if len(written) == 3:
            file.write(b"half of a state")
            raise StoppedError
        save(content, file)

    monkeypatch.setattr(resume.torch, "save", half)
    with pytest.raises(StoppedError):
        run(tmp_path / "parts")
    monkeypatch.undo()
    assert same(whole, run(tmp_path / "parts", seed=94, resume=True))
    assert [path.name for path in (tmp_path / "parts").glob("state.pt*")] == ["state.pt"]


def test_a_loader_goes_on_inside_an_epoch(stripes, robust, tmp_path, saving):
    saving(1)
    pairs = torch.utils.data.TensorDataset(stripes.images.float() / 255, stripes.labels)

    def run(out, **others):
        loader = torch.utils.data.DataLoader(pairs, batch_size=50, shuffle=True)
        return kdiga.distill(dropping(1), robust, loader, method="kd", epochs=3, lr=2e-2, out=out, **others)

    whole = run(tmp_path / "whole")
    stop_at(13, run, tmp_path / "parts")
    assert same(whole, run(tmp_path / "parts", resume=True))


def test_what_may_differ_and_what_may_not(stripes, robust, tmp_path, saving):
    saving(1)
    run = options("start", stripes, robust)
    stop_at(5, run, tmp_path)
    with pytest.raises(InputError, match="resume with the same recipe"):
        run(tmp_path, resume=True, ema=0.5)
    run(tmp_path, resume=True, accumulate=2, save_every=0)


@pytest.mark.parametrize("removed", [{"label_smoothing": 0.2}, {"swa": 0.3}, {"awp": 0.01}])
def test_a_setting_that_is_removed_is_refused(removed, stripes, robust, tmp_path, saving):
    saving(1)
    run = options("start", stripes, robust)
    stop_at(5, run, tmp_path, **removed)
    with pytest.raises(InputError, match=f"has training.{next(iter(removed))} .* and this one None; resume with the"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, "ema was 1.0"),
        ({"accumulate": 3}, "accumulate was 3 and batch_size 40"),
        ({"accumulate": 0}, "accumulate was 0"),
        ({"save_every": -1}, "save_every was -1"),
        ({"sync_batch_norm": True, "compile": "auto"}, "compile not false"),
        ({"accumulate": 2, "method": "mtard"}, "method 'mtard' weighs examples by the batch"),
    ],
)
def test_bad_settings(settings, message, stripes, robust):
    with pytest.raises(InputError, match=message):
        kdiga.distill(small(), robust, stripes, second_teacher=robust, **(QUICK | {"method": "kd"} | settings))


STRANGE = {
    "passes": lambda state: state["passes"].pop("student_forwards"),
    "words of the schedule": lambda state: state["schedule"].update(_anneal_func_type="timm:resnet18"),
    "moments of another shape": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3, 3)),
    "a moment alone": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(())),
    "no moments": lambda state: state["optimizer"]["state"][0].update(exp_avg_sq=None),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_state_of_another_form_is_refused_before_it_is_used(case, stripes, robust, tmp_path):
    run = options("start", stripes, robust)
    stop_at(14, run, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    STRANGE[case](state)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"cannot be continued from \(.*start over with --overwrite"):
        run(tmp_path, resume=True)
