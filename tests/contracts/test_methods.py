"""What every registered method must satisfy; a new one is covered unasked."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch import nn

from kdiga.config import recipe_from_dict
from kdiga.gradients import Exact, FiniteDifference
from kdiga.methods import available_methods
from kdiga.modes import seeded
from kdiga.step import Step
from kdiga.teachers import OnlineTeacher
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers

METHODS = available_methods()
every_method = pytest.mark.parametrize("name", METHODS)


class CountedForwards(nn.Module):
    """Counts forward passes, apart in train and in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.in_train, self.in_eval = model, 0, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.in_train += self.training
        self.in_eval += not self.training
        return self.model(images)


def step_of(name, student, teacher, batch, *, threat=None, route=None, progress=1.0, dtype=torch.float32):
    info = METHODS[name].info
    images, labels = batch
    teach = OnlineTeacher(teacher, info.teacher_gradient) if info.teacher else None
    return Step(
        Batch(images.to(dtype), labels, torch.arange(len(labels))), student, teach, threat or ThreatModel("linf", 0.1),
        route or Exact(), info.student_gradient, progress,
    )  # fmt: skip


def values(objective):
    return {term.name: term.value.detach() for term in objective.terms}


def objective_of(name, student, teacher, batch, **options):
    with seeded(3):
        return METHODS[name]()(step_of(name, student, teacher, batch, **options))


@every_method
def test_is_a_frozen_dataclass_that_says_what_it_is(name):
    method = METHODS[name]
    assert is_dataclass(method)
    assert method.__dataclass_params__.frozen
    assert method.info.name == name
    assert len(method.info.paper) > 5
    assert method.__doc__


@every_method
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_terms_are_finite_scalars(name, norm, student, teacher, batch):
    objective = objective_of(name, student, teacher, batch, threat=ThreatModel(norm, 0.1))
    for term in objective.terms:
        assert term.value.shape == ()
        assert torch.isfinite(term.value)
        assert term.weight >= 0
    assert len({term.name for term in objective.terms}) == len(objective.terms)


@every_method
@pytest.mark.parametrize("route", [Exact(), FiniteDifference()], ids=["exact", "finite-difference"])
def test_gradient_reaches_every_parameter(name, route, student, teacher, batch):
    objective_of(name, student, teacher, batch, route=route).total().backward()
    for key, parameter in student.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@every_method
def test_teacher_is_untouched(name, student, teacher, batch):
    if not METHODS[name].info.teacher:
        pytest.skip("has no teacher")
    teacher.train()
    teacher[1].eval()
    before = copy.deepcopy(teacher.state_dict())
    modes = [module.training for module in teacher.modules()]
    objective_of(name, student, teacher, batch).total().backward()
    assert [module.training for module in teacher.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


@every_method
def test_teacher_is_heard_in_eval_mode(name, student, teacher, batch):
    """A teacher left in train mode by its owner gives the same terms."""
    if not METHODS[name].info.teacher:
        pytest.skip("has no teacher")
    one = values(objective_of(name, copy.deepcopy(student), teacher.eval(), batch))
    two = values(objective_of(name, copy.deepcopy(student), teacher.train(), batch))
    assert one == two


@every_method
def test_student_keeps_its_mode_and_moves_statistics_as_declared(name, student, teacher, batch):
    counted = CountedForwards(student)
    objective_of(name, counted, teacher, batch).total().backward()
    assert all(module.training for module in counted.modules())
    assert counted.in_train == METHODS[name].info.train_forwards
    assert int(student[1].num_batches_tracked) == METHODS[name].info.train_forwards


@every_method
def test_finite_difference_route_moves_no_further_statistics(name, student, teacher, batch):
    objective_of(name, student, teacher, batch, route=FiniteDifference()).total().backward()
    assert int(student[1].num_batches_tracked) == METHODS[name].info.train_forwards


@every_method
def test_same_seed_same_terms(name, teacher, batch):
    one, two = (values(objective_of(name, five_layers(1), teacher, batch)) for _ in range(2))
    assert one == two


@every_method
def test_coefficients_do_not_depend_on_the_batch_size(name, teacher, batch):
    """Repeating the batch leaves every term as it is. (No batch norm, and no random start to differ.)"""
    images, labels = batch
    student = five_layers(1, batch_norm=False)
    twice = torch.cat([images, images]), torch.cat([labels, labels])
    method = METHODS[name]()
    if name == "pgd-at":
        pytest.skip("its random start differs; its one term is a batch mean by construction")
    one = values(method(step_of(name, student, teacher, batch)))
    two = values(method(step_of(name, student, teacher, twice)))
    for key, value in one.items():
        assert torch.isclose(value, two[key], rtol=1e-5), key


def test_no_two_methods_are_the_same(teacher, batch):
    totals = {}
    for name in METHODS:
        total = round(float(objective_of(name, five_layers(1), teacher, batch).total().detach()), 6)
        assert total not in totals, f"{name} and {totals.get(total)} give {total}"
        totals[total] = name


@every_method
def test_configuration_round_trip(name):
    """Every option survives the way through a recipe."""
    method = METHODS[name]()
    changed = replace(
        method,
        **{
            field.name: getattr(method, field.name) + 1
            for field in fields(method)
            if isinstance(getattr(method, field.name), (int, float)) and field.name != "ramp"
        },
    )
    data = {"name": name} | {field.name: getattr(changed, field.name) for field in fields(changed)}
    recipe = recipe_from_dict({"data": "digits", "student": "cnn-4", "teacher": "cnn-8", "method": data})
    assert recipe.method == changed
    assert recipe_from_dict(recipe.to_dict()) == recipe


@every_method
def test_float64(name, batch):
    """In float64 nothing falls back to float32 on the way."""
    student, teacher = five_layers(1).double(), five_layers(2).double().eval()
    images, labels = batch
    objective = objective_of(name, student, teacher, (images.double(), labels), dtype=torch.float64)
    assert objective.total().dtype == torch.float64


@every_method
def test_ramp_starts_at_nothing(name, student, teacher, batch):
    """A method with a ramp gives its coefficient no weight at the first step."""
    method = METHODS[name]()
    if not hasattr(method, "ramp"):
        pytest.skip("has no ramp")
    first = method(step_of(name, student, teacher, batch, progress=0.0)).terms[-1]
    half = method(step_of(name, student, teacher, batch, progress=method.ramp / 2)).terms[-1]
    full = method(step_of(name, student, teacher, batch, progress=method.ramp)).terms[-1]
    assert first.weight == 0
    assert half.weight == pytest.approx(full.weight / 2)
    assert full.weight > 0
