"""Evaluation: honest numbers, or an error."""

from __future__ import annotations

import copy
import logging

import pyautoattack
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.evaluation import sweep
from kdiga.evaluation.autoattack import VERSIONS, square_stage
from kdiga.evaluation.named_attacks import Attack
from kdiga.evaluation.run_attack import AttackTarget, run_attack
from kdiga.evaluation.stages import AttackSettings
from kdiga.model_state import frozen_parameters, seeded
from kdiga.runs.fingerprints import PROBED
from kdiga.statistics import clopper_pearson
from tests.conftest import five_layers


@pytest.fixture
def data(batch):
    """Labelled by the model itself, so that every image is correct."""
    model = five_layers(1).eval()
    return model, batch[0], model(batch[0]).argmax(1)


@pytest.fixture(scope="module")
def judged():
    """A model in train mode, images, labels, the result of AutoAttack with all its iterations, and its progress."""
    model = five_layers(1).eval()
    with seeded(5):
        images = torch.rand(12, 1, 8, 8)
    labels = model(images).argmax(1)
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    attacks = ("clean", "fgsm", "pgd-20", "autoattack")
    reported = []
    report = kdiga.evaluate(
        model, [(images, labels)], eps=0.03, attacks=attacks, seed=4, progress=lambda *event: reported.append(event)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return model, images, labels, report, reported


def test_stronger_attacks_leave_less(judged):
    report = judged[3]
    assert report["clean"] == 1.0
    assert report["autoattack"] <= report["pgd-20"] <= report["clean"]
    assert report["fgsm"] <= report["clean"]
    for name, result in report.results.items():
        assert len(result.correct) == 12, name
        low, high = result.interval
        assert low <= result.accuracy <= high


def test_progress_moves_within_a_batch_and_ends_at_all_examples(judged):
    reported = [event for event in judged[4] if event[0] == "autoattack"]
    done = [event[1] for event in reported]
    assert done == sorted(done)
    assert done[0] == 0
    assert reported[-1] == ("autoattack", 12, 12)
    assert len(done) > 5


def test_autoattack_equals_the_official_package_called_by_hand(judged):
    """The same flags as calling the package on the same images with the same seed."""
    model, images, labels, report, _ = judged
    official = pyautoattack.AutoAttack(
        copy.deepcopy(model).eval(), norm="Linf", eps=0.03, seed=4, version="standard", device="cpu"
    )
    _, predictions = official.run_standard_evaluation(images, labels, batch_size=500)
    assert list(report.results["autoattack"].correct) == (predictions == labels).tolist()


def test_a_stage_is_one_official_attack_alone(data, short_autoattack):
    model, images, labels = data
    report = kdiga.evaluate(model, [(images, labels)], eps=0.15, attacks=["autoattack"], seed=4)
    official = pyautoattack.AutoAttack(
        model, norm="Linf", eps=0.15, seed=4, version="custom", attacks=["apgd-ce"], device="cpu"
    )
    official.apgd.n_restarts = 1  # as the standard version has it
    _, predictions = official.run_standard_evaluation(images, labels, batch_size=500)
    alone = (predictions == labels).float().mean()
    assert report.results["autoattack"].stages["apgd-ce"] == pytest.approx(float(alone))
    assert report["autoattack"] < alone, "the eps is one at which the other attacks find more"


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_stages_of_every_version_are_the_packages(version, data):
    official = pyautoattack.AutoAttack(data[0], norm="Linf", eps=0.1, version=version)
    assert list(VERSIONS[version]) == official.attacks_to_run
    model, images, labels = data
    # At this eps the first attack fools all, so that the others cost nothing.
    report = kdiga.evaluate(model, [(images, labels)], eps=1.0, attacks=["autoattack"], version=version, examples=1)
    assert list(report.results["autoattack"].stages.items()) == [(name, 0.0) for name in VERSIONS[version]]


def test_only_correct_examples_are_attacked(data):
    model, images, labels = data
    wrong = labels.clone()
    wrong[:5] = (wrong[:5] + 1) % 10
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append(len(x))
            return model(x)

    report = kdiga.evaluate(Counting(), [(images, wrong)], eps=0.05, attacks=["pgd-5"])
    assert set(seen) - {3 * PROBED} == {7}, "besides the passes that tell one module from another"
    assert report["clean"] == pytest.approx(7 / 12)
    assert not any(report.results["pgd-5"].correct[:5]), "a wrong example stays wrong"


def test_leaves_the_model_as_found(judged):
    """Its weights and the random state are compared where the attacks run."""
    model = judged[0]
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_same_seed_same_answer_and_batching_does_not_matter(data):
    model, images, labels = data
    whole = kdiga.evaluate(model, [(images, labels)], eps=0.02, attacks=["pgd-5"], seed=3)
    parts = kdiga.evaluate(
        model, [(images[:5], labels[:5]), (images[5:], labels[5:])], eps=0.02, attacks=["pgd-5"], seed=3
    )
    assert whole.results["pgd-5"].correct == parts.results["pgd-5"].correct


def test_channels_last_model(data, short_autoattack):
    """The official code fails on gradients that are not contiguous; ours hands it contiguous ones."""
    model, images, labels = data
    model = model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    kdiga.evaluate(model, [(images, labels)], eps=0.05, attacks=["autoattack"], examples=2)


def test_few_classes(short_autoattack):
    """With fewer than ten classes the targeted attacks have fewer targets; stages that are not defined are left out."""
    model = kdiga.load_model("cnn-4", num_classes=5, in_channels=1, image_size=8)
    images = torch.rand(4, 1, 8, 8)
    labels = model(images).argmax(1)
    kdiga.evaluate(model, [(images, labels)], eps=0.05, attacks=["autoattack"])
    for classes in (2, 3):
        few = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        labels = few(images).argmax(1)
        found = kdiga.evaluate(few, [(images, labels)], eps=1e-5, attacks=["autoattack"]).results["autoattack"]
        assert found.stages["apgd-ce"] == found.stages["apgd-t"]  # left out, so it fools no example
        assert any(f"apgd-t of AutoAttack is not defined for {classes} classes" in note for note in found.notes)
        sure = kdiga.evaluate(few, [(images, labels)], eps=1, attacks=["autoattack"])
        assert sure["autoattack"] < 1  # the stages that are defined do attack


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_images_too_small_for_square(norm, short_autoattack):
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).eval(), torch.rand(4, 1, 4, 4)
    batch = images, model(images).argmax(1)
    found = kdiga.evaluate(model, [batch], norm=norm, eps=1e-4, attacks=["autoattack"]).results["autoattack"]
    assert any("square of AutoAttack is not defined for images of 4 pixels" in note for note in found.notes)


def test_checks_do_not_say_that_a_model_in_train_mode_was_in_eval_mode(student):
    batch = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    for training, verdict in ((True, "skipped"), (False, "passed")):
        found = kdiga.evaluate(student.train(training), [batch], attacks=["clean"], checks=True, eps=0)
        assert {one.name: one.verdict for one in found.findings}["eval-mode"] == verdict
        assert student.training == training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_attack_runs_in_the_models_precision(dtype, short_autoattack):
    """A linear model in another precision loses the examples that it loses in float32, up to rounding."""
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval(), torch.rand(8, 1, 8, 8)
    labels = model(images).argmax(1)
    half, attacks = copy.deepcopy(model).to(dtype), ["fgsm", "pgd-3", "cw-3", "autoattack"]
    found = kdiga.evaluate(half, [(images.to(dtype), labels)], eps=0.05, attacks=attacks)
    wanted = kdiga.evaluate(model, [(images, labels)], eps=0.05, attacks=attacks)
    assert 0 < wanted["autoattack"] < 1
    for attack in attacks:
        assert found[attack] == pytest.approx(wanted[attack], abs=1 / 8), attack


def test_the_packages_warnings_become_notes(data, caplog, short_autoattack):
    """A model whose logits are probabilities is remarked on, in the result and not on the terminal."""
    _, images, _ = data
    model = nn.Sequential(five_layers(1).eval(), nn.Softmax(1))
    labels = model(images).argmax(1)
    with caplog.at_level(logging.WARNING):
        report = kdiga.evaluate(model, [(images, labels)], eps=0.05, attacks=["autoattack"], examples=3)
    assert any("probability distribution" in note for note in report.results["autoattack"].notes)
    assert not caplog.records
    assert report.to_dict()["notes"]


def test_to_dict_is_plain_data(data):
    import json

    model, images, labels = data
    plain = kdiga.evaluate(model, [(images, labels)], eps="8/255", attacks=["clean", "fgsm"]).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["threat"] == {"norm": "linf", "eps": 8 / 255}
    assert plain["provenance"]["versions"]["torch"]


def test_the_worst_class_is_named():
    """A linear model that is right on all of class 0, half of class 2 and, under attack, none of class 2."""
    images = torch.tensor([0.1, 0.1, 0.9, 0.55]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 0, 2, 2])

    class Steps(nn.Module):
        def forward(self, x):
            z = x.flatten(1)
            return torch.cat([1 - z, z - 2, z - 0.2], 1)  # class 2 above 0.6

    report = kdiga.evaluate(Steps(), [(images, labels)], eps=0.4, attacks=["fgsm"])
    worst = report.worst_class("clean")
    assert (worst.label, worst.accuracy, worst.examples) == (2, 0.5, 2)
    assert report.worst_class("fgsm").accuracy == 0
    assert report.to_dict()["worst_class"]["fgsm"] == {"label": 2, "accuracy": 0.0, "examples": 2}
    alone = kdiga.evaluate(Steps(), [(images[:2], labels[:2])], eps=0.1, attacks=["clean"])
    assert alone.worst_class("clean") is None
    assert alone.to_dict()["worst_class"] == {}


def test_numbers_of_a_model_that_ignores_its_input_or_is_random_come_with_a_finding(data):
    _, images, labels = data

    class Noisy(nn.Module):
        def forward(self, x):
            return 3 * x.flatten(1)[:, :10] + 0.1 * torch.randn(len(x), 10)

    ask = {"eps": 0.05, "attacks": ["fgsm"]}
    for model, name in ((Constant(torch.arange(10.0)), "uses-input"), (Noisy(), "deterministic")):
        report = kdiga.evaluate(model, [(images, labels)], **ask)
        assert [(finding.name, finding.verdict) for finding in report.findings] == [(name, "failed")]
        assert report.to_dict()["findings"][0]["name"] == name
    assert kdiga.evaluate(data[0], [(images, labels)], **ask).to_dict()["findings"] == []


def test_sweep_never_rises(data):
    model, images, labels = data
    settings = AttackSettings(kdiga.ThreatModel(), 0, 500)
    curve = sweep(model, [(images, labels)], settings, [0, 0.02, 0.05, 0.1, 0.3], "pgd-5").accuracy
    assert curve[0] == 1.0
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] < 0.5


@pytest.mark.parametrize(("correct", "examples"), [(0, 10), (10, 10), (7, 10), (333, 1000)])
def test_interval_is_the_exact_binomial_one(correct, examples):
    expected = binomtest(correct, examples).proportion_ci(method="exact")
    assert clopper_pearson(correct, examples) == pytest.approx((expected.low, expected.high), abs=1e-9)


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        return self.value.expand(len(images), *self.value.shape)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (None, {"attacks": ["pgd20"]}, "did you mean pgd-20"),
        (None, {"attacks": ["pgd-1"]}, "at least 2 steps"),
        (None, {"attacks": ["autoattack"], "version": "standart"}, "did you mean standard"),
        (None, {"norm": "l3"}, "norm 'l3'"),
        (None, {"eps": 8}, r"Did you mean 8/255"),
        (None, {"examples": 0}, "at least 1"),
        (Constant(torch.zeros(3)), {}, "the model has 3 classes"),
        (Constant(torch.full((10,), torch.nan)), {}, "not finite"),
        (Constant(torch.zeros(10, 2)), {}, "must be .batch, num_classes."),
    ],
)
def test_bad_input(model, options, message, data):
    good, images, labels = data
    labels = torch.full_like(labels, 9)
    with pytest.raises(InputError, match=message):
        kdiga.evaluate(model or good, [(images, labels)], **options)


def test_no_data(student):
    with pytest.raises(InputError, match="the data was empty; give at least one batch"):
        kdiga.evaluate(student, [])


class BrokenOffItsImages(nn.Module):
    """A linear model on the given images; elsewhere its logits, or its input gradients, are not numbers."""

    def __init__(self, images, *, gradients):
        super().__init__()
        self.images, self.gradients = images, gradients
        self.head = nn.Linear(images[0].numel(), 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(images[0].numel())[:3])

    def forward(self, images):
        logits = self.head(images.flatten(1))
        if self.gradients:  # a root has no derivative at 0
            return logits + 0 * (images - images.detach()).flatten(1).norm(dim=1).square().sqrt()[:, None]
        known = (images[:, None] == self.images[None]).flatten(2).all(2).any(1)
        return torch.where(known[:, None], logits, torch.nan)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd-3", "cw-3x2"])
def test_logits_that_are_not_numbers_count_as_wrong_and_are_a_finding(attack, norm):
    images = torch.eye(4)[torch.arange(30) % 3].view(30, 1, 2, 2) / 2 + 0.2
    model = BrokenOffItsImages(images, gradients=False)
    report = kdiga.evaluate(model, [(images, torch.arange(30) % 3)], eps=0.01, norm=norm, attacks=[attack])
    assert (report["clean"], report[attack]) == (1.0, 0.0)
    (finding,) = (finding for finding in report.findings if finding.name == "finite")
    assert finding.verdict == "failed"
    assert finding.evidence["logits"] == 30


def test_square_and_autoattack_count_logits_that_are_not_numbers_as_wrong():
    images = torch.eye(9)[torch.arange(12) % 4].view(12, 1, 3, 3) / 2 + 0.2
    model, labels = BrokenOffItsImages(images, gradients=False), torch.arange(12) % 4
    model.head = nn.Linear(9, 4, bias=False)
    model.head.weight.data.copy_(torch.eye(9)[:4])
    report = kdiga.evaluate(model, [(images, labels)], eps=0.01, attacks=["autoattack"])
    assert report["autoattack"] == 0.0
    target = AttackTarget.of(model.eval(), images, labels, batch_size=12, fingerprint="")
    square = Attack("square", [square_stage(20)])
    with frozen_parameters(model):
        assert run_attack(target, square, AttackSettings(kdiga.ThreatModel("linf", 0.01), 0, 12)).accuracy == 0.0


def test_input_gradients_that_are_not_numbers_are_a_finding_and_do_not_spoil_the_images():
    images = torch.eye(4)[torch.arange(30) % 3].view(30, 1, 2, 2) / 2 + 0.2
    model = BrokenOffItsImages(images, gradients=True)
    report = kdiga.evaluate(model, [(images, torch.arange(30) % 3)], eps=0.01, attacks=["pgd-3"])
    assert report["pgd-3"] == 1.0  # the classes are 0.5 apart
    (finding,) = (finding for finding in report.findings if finding.name == "finite")
    assert finding.evidence == {"logits": 0, "gradients": 30}


def test_a_sound_model_has_no_such_finding(data):
    model, images, labels = data
    assert kdiga.evaluate(model, [(images, labels)], eps=0.05, attacks=["pgd-3"]).findings == []
