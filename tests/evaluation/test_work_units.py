"""An evaluation that is kept: it goes on where it was, is shared, is added to, and never changes its answer."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import kdiga
from kdiga.evaluation import sweep
from kdiga.evaluation.stages import AttackSettings
from kdiga.runs.work_units import ResultCache
from tests.conftest import five_layers
from tests.reference_process import ended, start, until

ATTACKS = ("clean", "fgsm", "pgd-200x3", "cw-100x2")
ASK = {"eps": 0.03, "attacks": ATTACKS, "batch_size": 5, "seed": 3}
SHORT = ASK | {"attacks": ("clean", "fgsm", "pgd-20x3", "cw-10x2")}  # where nothing interrupts it


@pytest.fixture
def data(batch):
    """Labelled by the model itself, all but one."""
    model = five_layers(1).eval()
    labels = model(batch[0]).argmax(1)
    labels[3] = (labels[3] + 1) % 10
    return model, batch[0], labels


def correct(report):
    return {name: result.correct for name, result in report.results.items()}


class Counting(nn.Module):
    """Counts forward passes; it is not part of the model's fingerprint."""

    def __init__(self, model):
        super().__init__()
        self.model, self.passes = model, 0

    def forward(self, images):
        self.passes += 1
        return self.model(images)


def test_kept_and_not_kept_give_the_same_answer(data, tmp_path):
    model, images, labels = data
    plain = kdiga.evaluate(model, [(images, labels)], **SHORT)
    kept = kdiga.evaluate(model, [(images, labels)], **SHORT, folder=tmp_path)
    assert correct(plain) == correct(kept)
    assert {name: result.stages for name, result in plain.results.items()} == {
        name: result.stages for name, result in kept.results.items()
    }


def test_autoattacks_stages_are_kept_one_by_one(data, tmp_path, short_autoattack):
    model, images, labels = data
    ask = {"eps": 0.01, "attacks": ["autoattack"], "examples": 4, "seed": 2}
    plain = kdiga.evaluate(model, [(images, labels)], **ask).results["autoattack"]
    kept = kdiga.evaluate(model, [(images, labels)], **ask, folder=tmp_path).results["autoattack"]
    assert plain.correct == kept.correct
    assert list(kept.stages) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert len(list(tmp_path.glob("*.json"))) == 4 + 1


def test_the_second_time_nothing_is_attacked(data, tmp_path):
    model, images, labels = data
    first = kdiga.evaluate(Counting(model), [(images, labels)], **SHORT, folder=tmp_path)
    again, unattacked = Counting(model), Counting(model)
    second = kdiga.evaluate(again, [(images, labels)], **SHORT, folder=tmp_path)
    kdiga.evaluate(unattacked, [(images, labels)], **SHORT | {"attacks": ["clean"]})
    assert (unattacked.passes, again.passes) == (30, 31), (
        "28 are the four cheap checks, one is the description's; one more tells the module from others in the folder"
    )
    assert correct(first) == correct(second)
    assert first.results["cw-10x2"].seconds == second.results["cw-10x2"].seconds, "of the work, not of reading"


def test_more_attacks_and_more_examples_add_to_what_is_there(data, tmp_path):
    model, images, labels = data
    ask = ASK | {"attacks": ("pgd-5",)}
    kdiga.evaluate(model, [(images, labels)], **ask, examples=5, folder=tmp_path)
    before = set(tmp_path.glob("*.json"))
    kdiga.evaluate(model, [(images, labels)], **ask | {"attacks": ("pgd-5", "fgsm")}, examples=10, folder=tmp_path)
    assert len(before) == 1
    assert before < set(tmp_path.glob("*.json"))
    assert len(set(tmp_path.glob("*.json"))) == 1 + 1 + 2


@pytest.mark.parametrize("change", ["weights", "eps", "norm", "seed", "labels", "images", "wrapped"])
def test_nothing_is_taken_from_another_matter(data, tmp_path, change):
    model, images, labels = data
    ask = ASK | {"attacks": ("pgd-5",)}
    kdiga.evaluate(model, [(images, labels)], **ask, folder=tmp_path)
    before = len(list(tmp_path.glob("*.json")))
    if change == "weights":
        model = five_layers(1).eval()
        with torch.no_grad():
            model[-1].bias[0] += 1e-6
    if change == "wrapped":
        model = nn.Sequential(nn.Identity(), model)
    if change == "labels":
        labels = labels.clone()
        labels[[0, 6, 11]] = (labels[[0, 6, 11]] + 1) % 10
    if change == "images":
        images = (images + 1e-3).clamp(0, 1)
    ask |= {"eps": {"eps": 0.031}, "norm": {"norm": "l2"}, "seed": {"seed": 4}}.get(change, {})
    fresh = kdiga.evaluate(model, [(images, labels)], **ask)
    kept = kdiga.evaluate(model, [(images, labels)], **ask, folder=tmp_path)
    assert correct(fresh) == correct(kept)
    assert len(list(tmp_path.glob("*.json"))) == 2 * before


def _evaluate(folder, images, labels, begun):
    torch.set_num_threads(1)
    begun.touch()
    kdiga.evaluate(Counting(five_layers(1).eval()), [(images, labels)], **ASK, folder=folder)


def test_killed_at_any_moment_it_goes_on_to_the_same_answer(data, tmp_path):
    """Killed again and again, with SIGKILL; what was finished before each kill is never attacked again."""
    model, images, labels = data
    expected = correct(kdiga.evaluate(model, [(images, labels)], **ASK))
    kept = tmp_path / "kept"
    for number, moment in enumerate((0.05, 0.4, 0.9)):
        begun = tmp_path / f"begun-{number}"
        process = start(_evaluate, kept, images, labels, begun)
        until(begun.exists, process)
        time.sleep(moment)
        process.kill()
        ended(process)
    done = {path: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert done, "the kills came too early to show anything"
    found = kdiga.evaluate(model, [(images, labels)], **ASK, folder=kept)
    assert correct(found) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_processes_share_an_evaluation(data, tmp_path):
    model, images, labels = data
    expected = correct(kdiga.evaluate(model, [(images, labels)], **ASK))
    kept = tmp_path / "kept"
    helper = start(_evaluate, kept, images, labels, tmp_path / "begun")
    until(lambda: list(kept.glob("*.json")), helper)
    counting = Counting(model)
    assert correct(kdiga.evaluate(counting, [(images, labels)], **ASK, folder=kept)) == expected
    assert ended(helper) == 0
    alone = Counting(model)
    kdiga.evaluate(alone, [(images, labels)], **ASK)
    assert counting.passes < alone.passes


def test_restarts_only_ever_fool_more(data):
    model, images, labels = data
    one = kdiga.evaluate(model, [(images, labels)], eps=0.02, attacks=["pgd-3"], seed=1).results["pgd-3"]
    three = kdiga.evaluate(model, [(images, labels)], eps=0.02, attacks=["pgd-3x3"], seed=1).results["pgd-3x3"]
    assert list(three.stages) == ["start 1", "start 2", "start 3"]
    assert three.stages["start 1"] == one.accuracy, "the first start is that of a single one"
    assert all(not many or single for many, single in zip(three.correct, one.correct, strict=True))
    assert list(three.stages.values()) == sorted(three.stages.values(), reverse=True)


def test_every_restart_starts_elsewhere(data):
    model, images, labels = data
    starts = []

    class Watching(nn.Module):
        def forward(self, x):
            if x.requires_grad:
                starts.append(x.detach().clone())
            return model(x)

    kdiga.evaluate(Watching(), [(images, labels)], eps=1e-4, attacks=["pgd-2x3"])
    assert len(starts) == 1 + 6  # the first pass identifies the module
    starts = starts[1:]
    assert not any(torch.equal(starts[0], starts[place]) for place in (2, 4))


def test_the_margin_attack_sees_through_saturated_logits(data):
    """At a scale of 1e5 the cross-entropy's gradient is exactly zero in float32; the margin's is not."""
    model, images, labels = data

    class Scaled(nn.Module):
        def forward(self, x):
            return 1e5 * model(x)

    ask = {"eps": 0.3, "attacks": ["fgsm", "pgd-10", "cw-10"]}
    sound, scaled = (kdiga.evaluate(one, [(images, labels)], **ask) for one in (model, Scaled()))
    assert scaled["cw-10"] == sound["cw-10"]
    assert scaled["pgd-10"] > sound["pgd-10"]


def test_a_sweep_is_kept_too_and_looks_only_at_what_stands(data, tmp_path):
    model, images, labels = data
    settings = AttackSettings(kdiga.ThreatModel(), 0, 5, ResultCache(tmp_path))
    ask = {"eps_values": (0, 0.01, 0.03, 0.3), "attack": "pgd-5"}
    counting = Counting(model)
    first = sweep(counting, [(images, labels)], settings, **ask)
    assert sum(first.correct[0]) == 11
    again = Counting(model)
    assert sweep(again, [(images, labels)], settings, **ask) == first
    assert again.passes == 3 + 1, "one tells the module from others"
    coarse = ask | {"eps_values": (0, 0.03, 0.3)}
    assert sweep(counting, [(images, labels)], settings, **coarse) == sweep(
        counting, [(images, labels)], replace(settings, result_cache=ResultCache()), **coarse
    ), "what an eps came to depends on what fell before"
    plain = first.to_dict()
    assert [
        low <= accuracy <= high for accuracy, (low, high) in zip(plain["accuracy"], plain["interval_95"], strict=True)
    ]
