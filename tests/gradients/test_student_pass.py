"""The student at a batch: what is computed, how often, in which mode, and what it leaves behind."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.gradients.input_gradient import gradient_by_images
from kdiga.gradients.routes import Exact, FiniteDifference, route_by_name
from kdiga.gradients.student_pass import PassOptions, StudentPass
from kdiga.model_state import seeded
from tests.conftest import five_layers
from tests.gradients.test_routes import Passes


def reference(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, score: str) -> torch.Tensor:
    """Of a model whose examples do not touch."""
    x = images.clone().requires_grad_()
    logits = model(x)
    own = {"loss": F.cross_entropy(logits, labels, reduction="sum")}
    own["logit"] = logits[torch.arange(len(labels)), labels].sum()
    own["probability"] = logits.softmax(1)[torch.arange(len(labels)), labels].sum()
    return torch.autograd.grad(own[score], x)[0]


@pytest.mark.parametrize("score", ["loss", "probability", "logit"])
@pytest.mark.parametrize("route", ["exact", "finite-difference", "one-sided"])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_is_that_of_the_score(score, route, compiled, batch):
    student = five_layers(1, batch_norm=False)
    expected = reference(student, *batch, score)
    forward = student.forward if compiled else None
    for use in ("value", "differentiable"):
        point = StudentPass(
            student, *batch, PassOptions(use, route_by_name(route), gradient_of=score), compiled=forward
        )
        found = point.input_gradient_value if use == "value" else point.input_gradient
        assert torch.allclose(found, expected, atol=1e-7)
        assert found.requires_grad == (use == "differentiable")
        assert torch.allclose(point.losses, F.cross_entropy(student(batch[0]), batch[1], reduction="none"))
        point.losses.sum().backward()
        assert all(parameter.grad is not None for parameter in student.parameters())


def test_each_quantity_is_computed_once_and_only_when_asked(batch):
    student = Passes(five_layers(1))
    point = StudentPass(student, *batch, PassOptions("value", Exact()))
    assert point.computed() == (None, None)
    assert student.forwards == 0
    assert point.logits is point.logits
    known, gradient = point.computed()
    assert known is point.logits
    assert gradient is None
    value = point.input_gradient_value
    assert point.input_gradient_value is value
    assert point.computed()[1] is value
    assert point.losses is point.losses
    assert student.forwards == 1
    trained = StudentPass(student, *batch, PassOptions("differentiable", Exact()))
    assert trained.computed()[1] is None
    assert trained.input_gradient is trained.computed()[1]


@pytest.mark.parametrize(("use", "wanted"), [("none", False), ("value", True), ("differentiable", True)])
def test_images_carry_a_graph_only_for_a_gradient(use, wanted, batch):
    images, labels = batch
    point = StudentPass(five_layers(1), images.requires_grad_(), labels, PassOptions(use, Exact()))
    assert point.images.requires_grad == wanted
    assert point.images.is_leaf
    assert images.grad is None
    through = StudentPass(
        five_layers(1), images, labels, PassOptions("value", Exact()), compiled=five_layers(1).forward
    )
    assert not through.images.requires_grad


@pytest.mark.parametrize("route", ["exact", "finite-difference", "one-sided"])
@pytest.mark.parametrize(
    ("options", "moved"),
    [({}, 1), ({"batch_norm": "train"}, 1), ({"batch_norm": "eval"}, 0), ({"keep_statistics": True}, 0)],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_move_once_or_not_at_all(route, options, moved, compiled, batch):
    student = five_layers(1)
    forward = student.forward if compiled and route != "exact" else None
    point = StudentPass(
        student, *batch, PassOptions("differentiable", route_by_name(route), **options), compiled=forward
    )
    point.input_gradient.square().sum().backward()
    assert int(student[1].num_batches_tracked) == moved
    assert all(module.training for module in student.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())
    fresh = five_layers(1).eval() if options.get("batch_norm") == "eval" else five_layers(1)
    assert torch.allclose(point.logits, fresh(batch[0]), atol=1e-6)


def test_a_compiled_gradient_has_no_pass_through_the_parameters(batch):
    student, wanting = five_layers(1), []

    def forward(images):
        wanting.append((images.requires_grad, any(parameter.requires_grad for parameter in student.parameters())))
        return student(images)

    point = StudentPass(student, *batch, PassOptions("value", FiniteDifference()), compiled=forward)
    found = point.input_gradient_value
    assert wanting == [(False, True), (True, False)]
    plain = StudentPass(five_layers(1), *batch, PassOptions("value", Exact())).input_gradient_value
    assert torch.allclose(found, plain, atol=1e-7)
    assert int(student[1].num_batches_tracked) == 1


@pytest.mark.parametrize("route", ["finite-difference", "one-sided"])
def test_a_separate_pass_drops_the_same_units(route, batch):
    images, labels = batch

    def student():
        with seeded(4):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.SiLU(), nn.Dropout(0.5), nn.Linear(40, 10))

    plain, through = student(), student()
    for use in ("value", "differentiable"):
        found = []
        for model, forward in ((plain, None), (through, through.forward)):
            with seeded(7):
                point = StudentPass(model, images, labels, PassOptions(use, route_by_name(route)), compiled=forward)
                found.append(point.input_gradient_value)
        assert torch.allclose(found[0], found[1], atol=1e-7)


def test_what_is_being_computed_is_told(batch):
    told = []

    @contextmanager
    def watch(section):
        told.append(section)
        yield

    point = StudentPass(five_layers(1), *batch, PassOptions("differentiable", FiniteDifference()), watch=watch)
    point.input_gradient.sum().backward()
    assert told == ["student", "alignment", "alignment", "alignment"]


class Spare(nn.Module):
    """A student with a frozen layer, and a parameter that no forward pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.unused = five_layers(1, batch_norm=False), nn.Parameter(torch.ones(3))
        self.model[0].requires_grad_(False)

    def forward(self, images):
        return self.model(images)


@pytest.mark.parametrize("route", ["exact", "finite-difference", "one-sided"])
def test_frozen_and_unused_parameters_get_no_gradient(route, batch):
    student = Spare()
    point = StudentPass(student, *batch, PassOptions("differentiable", route_by_name(route)))
    point.input_gradient.square().sum().backward()
    assert student.unused.grad is None
    assert student.model[0].weight.grad is None
    assert student.model[3].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("route", ["finite-difference", "one-sided"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_examples_without_a_share_give_nothing_and_no_nan(route, batch_norm, batch):
    student = five_layers(1, batch_norm=batch_norm)
    point = StudentPass(student, *batch, PassOptions("differentiable", route_by_name(route)))
    (0.0 * point.input_gradient).sum().backward()
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in student.parameters())


def test_a_half_share_gives_half_the_derivative(batch):
    """The derivative is linear in what comes back, example by example."""
    weights = torch.linspace(0, 2, 12)[:, None, None, None]
    found = []
    for route in (Exact(), FiniteDifference(0.01), FiniteDifference(0.003, 1)):
        student = five_layers(1, batch_norm=False).double()
        point = StudentPass(student, batch[0].double(), batch[1], PassOptions("differentiable", route))
        (weights * point.input_gradient).sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
    for difference in found[1:]:
        assert float((difference - found[0]).norm() / found[0].norm()) < 0.01


def test_gradients_of_confident_answers_do_not_vanish_in_float16(batch):
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.zeros(12, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([18.0, 0, 0]))
    expected = kdiga.input_gradient(model, batch[0], labels)
    with torch.autocast("cpu", torch.float16):
        found = kdiga.input_gradient(model, batch[0], labels)
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_a_scale_that_overflows_in_float16_is_not_used(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False)).half()
    with torch.no_grad():
        model[1].weight.uniform_(-1, 1).mul_(200)
    images = batch[0].requires_grad_()
    values = model(images.half())[:, 0]
    assert torch.equal(gradient_by_images(values, images)[0].flatten(), model[1].weight[0].float())


def test_routes_by_name():
    assert isinstance(route_by_name("exact"), Exact)
    assert route_by_name("finite-difference", 0.2) == FiniteDifference(0.2, 2)
    assert route_by_name("one-sided", 0.3) == FiniteDifference(0.3, 1)
    assert route_by_name("one-sided") == FiniteDifference(None, 1)
    assert FiniteDifference() == FiniteDifference(None, 2)
    own = FiniteDifference(0.7)
    assert route_by_name(own, 0.1) is own
    assert (Exact().double_backward, FiniteDifference().double_backward) == (True, False)
    with pytest.raises(InputError, match="did you mean one-sided"):
        route_by_name("onesided")


@pytest.mark.parametrize("score", ["loss", "probability", "logit"])
def test_gradients_and_logits_of_any_model(score, batch):
    from kdiga.gradients.input_gradient import input_gradient_and_logits

    model = five_layers(1, batch_norm=False)
    with torch.no_grad():
        gradient, logits = input_gradient_and_logits(model, *batch, score)
    assert torch.allclose(gradient, reference(model, *batch, score), atol=1e-7)
    assert torch.allclose(logits, model(batch[0]), atol=1e-6)
    assert not logits.requires_grad
    assert not gradient.requires_grad
    assert torch.equal(input_gradient_and_logits(model, *batch)[0], kdiga.input_gradient(model, *batch))


def test_labels_of_any_integer_type_will_do(student, teacher, batch):
    images, labels = batch
    for dtype in (torch.uint8, torch.int32):
        given = labels.to(dtype)
        assert torch.equal(kdiga.input_gradient(teacher, images, given), kdiga.input_gradient(teacher, images, labels))
        terms = [kdiga.align(copy.deepcopy(student), teacher, images, each) for each in (given, labels)]
        assert torch.equal(*terms)


def test_an_input_gradient_is_asked_of_sound_batches(teacher, batch):
    images, labels = batch
    with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
        kdiga.input_gradient(teacher, images + 1, labels)
    with pytest.raises(InputError, match="one per image"):
        kdiga.input_gradient(teacher, images, labels[:3])
