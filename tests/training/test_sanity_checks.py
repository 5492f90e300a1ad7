"""Planted faults are told at the first looks, and sound runs are told nothing."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdiga
from kdiga.errors import DivergedError, InputError, KdigaWarning
from kdiga.gradients.student_pass import StepStatistics, saturated
from kdiga.methods import method_by_name
from kdiga.model_state import seeded
from kdiga.training import sanity_checks
from kdiga.training.sanity_checks import STEPS
from tests.conftest import five_layers

SETTINGS = {"threat": kdiga.ThreatModel("linf", 0.1), "batch_size": 64, "device": "cpu", "validation_steps": 1}


def rounded(images: torch.Tensor) -> torch.Tensor:
    return (images * 16).round() / 16


def clamped(images: torch.Tensor) -> torch.Tensor:
    return (images - 2).clamp(0, 1)


class Changed(nn.Module):
    """A sound network with something in front of it or behind it, or in an unusual mode."""

    def __init__(self, seed=1, before=None, after=None, keep_mode=False):
        super().__init__()
        self.network, self.before, self.after, self.keep_mode = five_layers(seed), before, after, keep_mode

    def forward(self, images):
        images = images if self.before is None else self.before(images)
        logits = self.network(images)
        return logits if self.after is None else self.after(logits)

    def train(self, mode=True):
        return self if self.keep_mode else super().train(mode)


class Blind(Changed):
    def forward(self, images):
        with torch.no_grad():
            features = self.network[:-1](images)
        return self.network[-1](features)


@pytest.fixture(scope="module")
def digits():
    return kdiga.load_data("digits")


@pytest.fixture(scope="module")
def trained(digits):
    """A sound teacher; trained in a few seconds."""
    teacher = five_layers(3)
    kdiga.distill(teacher, None, digits.train, method="ce", epochs=4, lr=1e-2, **SETTINGS)
    return teacher


def told(student, teacher, train, *, method="kdiga", epochs=1, **settings):
    """Return the names of a run's warnings, each told once."""
    heard = list[str]()
    result = kdiga.distill(
        student, teacher, train, method=method, epochs=epochs, on_warning=heard.append, **SETTINGS | settings
    )
    assert heard == [one["message"] for one in result.warnings]
    assert all("\n" not in message and message.endswith(".") for message in heard)
    assert result.to_dict()["warnings"] == result.warnings
    json.dumps(result.to_dict())
    return [one["name"] for one in result.warnings]


@pytest.mark.parametrize("method", kdiga.available_methods())
def test_no_method_is_suspected_of_anything_on_digits(method, trained, digits):
    """Past the last look, at 201 steps."""
    kind = type(method_by_name(method))
    # Short attacks to save time; and GradAlign's own term is the one other use of an input gradient.
    few = {"steps": 2, "gradalign_weight": 0.2, "inner_steps": 2} if method != "tangent" else {}
    chosen = kind(**{field.name: few[field.name] for field in fields(kind) if field.name in few})
    along = chosen.needs.trains_teacher
    teacher = five_layers(5) if along else trained
    epochs = -(-(STEPS[-1] + 1) // 40)
    assert (
        told(
            five_layers(1),
            teacher,
            digits.train,
            method=chosen,
            epochs=epochs,
            second_teacher=trained,
            batch_size=32,
            validate_every=epochs,
            validation_examples=64,
        )
        == []
    )


@pytest.mark.parametrize("method", ["kdiga", "tangent", "pgd-at", "igam"])
def test_a_student_whose_forward_detaches(method, trained, digits):
    """Before, it ended in PyTorch's own words."""
    with pytest.raises(InputError, match=r"no gradient by its images.*no_grad.*Let the gradient through\.$"):
        told(Blind(), trained, digits.train, method=method)


def test_a_teacher_whose_forward_detaches(digits):
    with pytest.raises(InputError, match="no gradient by its images"):
        told(five_layers(1), Blind(), digits.train)


@pytest.mark.parametrize(
    ("before", "route"),
    [(rounded, "auto"), (clamped, "exact"), (rounded, "finite-difference")],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_an_input_gradient_that_is_zero_ends_the_run(before, route, trained, digits, tmp_path):
    """At the second look, for a last layer of zeros has none at the first and is sound."""
    done = list[int]()
    with pytest.raises(DivergedError, match=r"exactly zero on 100 % of the images at step 9.*Let the gradient through"):
        told(
            Changed(before=before),
            trained,
            digits.train,
            route=route,
            out=tmp_path,
            on_step=lambda step, _: done.append(step),
        )
    assert done[-1] == STEPS[1]
    assert "diverged" in json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])
    assert not list(tmp_path.glob("*.safetensors"))


def test_where_the_gradient_is_only_read_it_is_a_warning(trained, digits):
    assert told(Changed(before=rounded), trained, digits.train, method="tangent") == ["gradient-vanishes"]


def test_a_last_layer_of_zeros_is_sound(trained, digits):
    student = five_layers(1)
    nn.init.zeros_(student[-1].weight)
    with seeded(0):
        assert told(student, trained, digits.train) == []


def test_a_student_with_saturated_logits(trained, digits):
    student = Changed(after=lambda logits: 1e3 * logits)
    student.network.load_state_dict(trained.state_dict())
    assert told(student, trained, digits.train, method="kd", lr=1e-6) == ["student-saturated"]


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ({"after": lambda logits: 1e3 * logits}, ["teacher-saturated"]),
        ({"after": lambda logits: logits.roll(1, 1)}, ["teacher-guesses"]),
        ({"after": lambda logits: F.dropout(logits, 0.3)}, ["teacher-mode"]),  # training=True is its default
        ({"before": lambda images: F.batch_norm(images, None, None, training=True)}, ["teacher-mode"]),
    ],
    ids=["saturated", "classes in another order", "dropout", "batch norm"],
)
@pytest.mark.parametrize("role", ["teacher", "second teacher"])
def test_a_teacher_with_a_fault(role, fault, names, trained, digits):
    teacher = Changed(**fault)
    teacher.network.load_state_dict(trained.state_dict())
    first, second = (teacher, trained) if role == "teacher" else (trained, teacher)
    found = told(five_layers(1), first, digits.train, method="mtard", epochs=2, second_teacher=second)
    assert found == [name.replace("teacher", role, 1) for name in names]


def test_a_student_that_stays_in_eval_mode(trained, digits):
    student = Changed(keep_mode=True)
    student.network.load_state_dict(trained.state_dict())
    for module in student.modules():
        module.training = False
    assert told(student, trained, digits.train, method="kd") == ["student-mode"]
    assert told(student, trained, digits.train, method="kd", freeze="network.1.*") == []


def test_without_a_listener_a_warning_names_the_callers_line(trained, digits):
    student = Changed(after=lambda logits: 1e3 * logits)
    student.network.load_state_dict(trained.state_dict())
    with pytest.warns(KdigaWarning, match="the student's logits are saturated") as caught:
        kdiga.distill(student, None, digits.train, method="ce", epochs=1, lr=1e-6, **SETTINGS)
    assert [one.filename for one in caught] == [__file__]


def test_a_resumed_run_keeps_what_was_told_and_does_not_tell_it_again(trained, digits, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done == 25:
            raise StoppedError

    teacher = Changed(after=lambda logits: 1e3 * logits)
    teacher.network.load_state_dict(trained.state_dict())
    run = SETTINGS | {"method": "kd", "epochs": 2, "out": tmp_path}
    with pytest.raises(StoppedError):
        kdiga.distill(five_layers(1), teacher, digits.train, on_step=stop, on_warning=lambda _: None, **run)
    heard = list[str]()
    result = kdiga.distill(five_layers(1), teacher, digits.train, resume=True, on_warning=heard.append, **run)
    assert not heard
    assert [one["name"] for one in result.warnings] == ["teacher-saturated"]


@pytest.mark.parametrize("method", ["kdiga", "tangent", "rslad"])
def test_looking_changes_no_bit(method, trained, digits, monkeypatch):
    def weights():
        result = kdiga.distill(five_layers(1), trained, digits.train, method=method, epochs=1, **SETTINGS)
        return result.last_state

    looked = weights()
    monkeypatch.setattr(sanity_checks, "STEPS", ())
    unseen = weights()
    assert all(torch.equal(value, unseen[name]) for name, value in looked.items())


def test_only_a_few_steps_are_looked_at(trained, digits, monkeypatch):
    made = list[StepStatistics]()

    class Counted(StepStatistics):
        def __init__(self, device):
            made.append(self)
            super().__init__(device)

    monkeypatch.setattr("kdiga.training.stepper.StepStatistics", Counted)
    kdiga.distill(five_layers(1), trained, digits.train, method="kd", epochs=1, accumulate=2, **SETTINGS)
    assert len(made) == 2 * sum(step < 19 for step in STEPS)


def test_saturation_is_that_of_float32():
    assert saturated(torch.tensor([[0.0, 104.0], [0.0, 102.0], [88.0, 88.0]])).tolist() == [True, False, False]


class TestAlign:
    """The same faults in anybody's loop."""

    def test_detached(self, batch):
        with pytest.raises(InputError, match="no gradient by its images"):
            kdiga.align(Blind(), five_layers(2), *batch)
        with torch.no_grad(), pytest.raises(InputError, match=r"or the call, runs under torch\.no_grad"):
            kdiga.align(five_layers(1), five_layers(2), *batch)

    def test_no_graph_to_the_parameters(self, batch):
        """A hand-written backward pass whose result has no graph: the number is right and nothing learns from it."""

        class Once(torch.autograd.Function):
            @staticmethod
            def forward(ctx, images):
                return images.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient.detach()

        student = Changed(before=Once.apply)
        with pytest.raises(InputError, match=r"no graph to its parameters.*finite-difference"):
            kdiga.align(student, five_layers(2), *batch)
        kdiga.align(student, five_layers(2), *batch, route="finite-difference").backward()
        with pytest.raises(InputError, match="no parameter of the student requires a gradient"):
            kdiga.align(student.requires_grad_(False), five_layers(2), *batch)

    def test_rounding(self, batch):
        with pytest.raises(InputError, match="rounding in its forward pass"):
            kdiga.align(Changed(before=rounded), five_layers(2), *batch)

    def test_zero_and_modes(self, batch):
        with pytest.warns(KdigaWarning, match="input gradient is exactly zero on every image"):
            kdiga.align(Changed(before=clamped), five_layers(2), *batch)
        with pytest.warns(KdigaWarning, match=r"eval mode.*student.train\(\)"):
            kdiga.align(five_layers(1).eval(), five_layers(2), *batch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kdiga.align(five_layers(1, batch_norm=False).eval(), five_layers(2), *batch)
            kdiga.align(five_layers(1).train(), five_layers(2), *batch).backward()
