"""Adversarial weight perturbation: the steps of the paper's formula, on attacks that are made once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import kdiga
from kdiga.errors import InputError
from kdiga.gradients.routes import Exact
from kdiga.methods import Combined, method_by_name
from kdiga.methods.context import StepRecord
from kdiga.model_state import frozen_statistics, seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers
from tests.contracts.test_methods import VARIANTS, step_of, values, variant_of
from tests.distributed.work import alone, configured
from tests.methods.formulas import kl_, pgd_ce, pgd_kl
from tests.training.test_loop import QUICK, THREAT, small
from tests.training.test_micro_batches import largest_difference

AWP, LR = 0.02, 0.1


def batches(count=3):
    with seeded(8):
        return [(torch.rand(6, 1, 8, 8).double(), torch.randint(0, 10, (6,))) for _ in range(count)]


def stepper_of(name, student, teacher, steps, **settings):
    options = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": LR, "schedule": "constant"}
    chosen = TrainingSettings(**options | {"device": "cpu", "channels_last": False, "batch_size": 6} | settings)
    task = TrainingTask(student, teacher, method_by_name(name, {"steps": 3}), ThreatModel("linf", 0.1))
    stepper = Stepper(task, chosen, Exact(), steps=steps)
    stepper.train_mode()
    return stepper


@pytest.mark.parametrize("name", ["pgd-at", "rslad"])
def test_steps_are_those_of_the_formula(name):
    """Attack at w; ascend in train mode without moving statistics; descend from w by the gradient at w + v."""
    student, teacher = five_layers(1).double(), five_layers(2).double().eval()
    stepper = stepper_of(name, student, [teacher] if name == "rslad" else [], 3, awp=AWP)
    with seeded(6), stepper.counter.counting():
        for number, (images, labels) in enumerate(batches()):
            stepper.take(Batch(images, labels, torch.arange(6)), number)
    attacks = 3 * (3 + (2 if name == "pgd-at" else 4))  # steps, and once more each pass of the objective
    assert stepper.counter.totals["student_forwards"] == stepper.counter.totals["student_backwards"] == attacks
    assert stepper.counter.totals["teacher_forwards"] == (3 if name == "rslad" else 0)

    theirs = five_layers(1).double().train()
    with seeded(6):
        for images, labels in batches():
            step_by_hand(name, theirs, teacher, images, labels)
    for key, value in theirs.state_dict().items():
        if "num_batches" not in key:
            assert torch.allclose(value, student.state_dict()[key], atol=1e-10, rtol=1e-10), key


def step_by_hand(name, S, teacher, images, labels):
    target = teacher(images).detach()
    adv = pgd_ce(S, images, labels, "linf") if name == "pgd-at" else pgd_kl(S, target, images, "linf")

    def gradient():
        if name == "pgd-at":
            loss = F.cross_entropy(S(adv), labels)
        else:
            loss = 5 / 6 * kl_(target, S(adv)).mean() + 1 / 6 * kl_(target, S(images)).mean()
        return torch.autograd.grad(loss, list(S.parameters()))

    statistics = {key: value.clone() for key, value in S.state_dict().items() if "running" in key}
    ascent, before = gradient(), [weight.detach().clone() for weight in S.parameters()]
    S.load_state_dict(statistics, strict=False)
    with torch.no_grad():
        for weight, g in zip(S.parameters(), ascent, strict=True):
            if weight.dim() > 1:
                weight += AWP * weight.norm() * g / g.norm()
    descent = gradient()
    with torch.no_grad():
        for weight, value, g in zip(S.parameters(), before, descent, strict=True):
            weight.copy_(value - LR * g)


@pytest.mark.parametrize("method", kdiga.available_methods())
def test_every_method_can_have_it(method):
    """A batch in micro-batches, where they are accepted, is perturbed as one."""
    perturbed = alone(method, "exact", "linf", awp=0.05)
    if configured(method).needs.couples_batch:
        assert largest_difference(alone(method, "exact", "linf"), perturbed) > 1e-6
    else:
        parts = alone(method, "exact", "linf", awp=0.05, accumulate=3)
        assert largest_difference(perturbed, parts) < 1e-9


ADDED = (
    {"name": "kdiga"},
    {"name": "kdiga", "align_share": 0.5},
    {"name": "tangent", "align_share": 0.5},
    {"name": "tangent", "steps": 3},
    {"name": "tangent", "steps": 3, "align_share": 0.5},
    {"name": "igdm"},
)


def with_added(base):
    """The method alone, and with each term that can be added to it."""
    methods = [base]
    for options in ADDED:
        try:
            methods.append(Combined(base, (method_by_name(options),)))
        except InputError:
            continue  # the term needs an attack, or an input gradient of another score
    return methods


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_repeated_step_has_the_same_images(variant, batch):
    """At the same weights each term has its value again: random images and a teacher's answers are recorded."""
    for method in with_added(variant_of(variant)):
        student, record = five_layers(1), StepRecord()
        step = partial(step_of, method, student, five_layers(2).eval(), batch, progress=0.9)
        with seeded(3), frozen_statistics(student):
            first = values(method(replace(step(), record=record)))
            record.repeat()
            again = values(method(replace(step(), record=record)))
        assert again == first, method


def test_a_run_learns_and_resumes(stripes, tmp_path):
    options = QUICK | {"method": "ce", "epochs": 2, "threat": THREAT, "awp": 0.01}
    whole = kdiga.distill(small(), None, stripes, **options)

    def stop(done, total):
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kdiga.distill(small(), None, stripes, out=tmp_path, on_step=stop, **options)
    resumed = kdiga.distill(small(), None, stripes, out=tmp_path, resume=True, **options)
    assert whole.history[-1].clean > 0.8
    assert all(torch.equal(value, resumed.last_state[key]) for key, value in whole.last_state.items())
    assert whole.passes["student_forwards"] == 72  # two a step
