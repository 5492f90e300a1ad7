"""The public one-liner: what it computes, whom it reaches, what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdiga
from kdiga.losses import DISTANCES
from tests.conftest import five_layers

ROUTES = ["exact", "finite-difference"]


def looped_gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The slow reference: one example at a time."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        image = image[None].clone().requires_grad_()
        F.cross_entropy(model(image), label[None]).backward()
        rows.append(image.grad[0])
    return torch.stack(rows)


def slow_distance(name: str, a: torch.Tensor, b: torch.Tensor) -> float:
    values = []
    for one, two in zip(a.flatten(1), b.flatten(1), strict=True):
        gap = one - two
        values.append(
            {
                "l2": (gap @ gap) ** 0.5,
                "l2-squared": gap @ gap,
                "l1": sum(abs(part) for part in gap),
                "cosine": 1 - (one @ two) / ((one @ one) ** 0.5 * (two @ two) ** 0.5),
            }[name]
        )
    return float(sum(values) / len(values))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("route", ROUTES)
def test_value_equals_a_loop_over_examples(distance, route, batch):
    images, labels = batch
    student, teacher = five_layers(1, batch_norm=False), five_layers(2).eval()
    expected = slow_distance(
        distance, looped_gradients(student, images, labels), looped_gradients(teacher, images, labels)
    )
    found = kdiga.align(student, teacher, images, labels, distance=distance, route=route)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU])
def test_the_term_alone_reaches_every_student_parameter(distance, route, activation, teacher, batch):
    """The first public KDIGA code detached it here, and trained plain KD."""
    student = five_layers(1, activation=activation, batch_norm=False)
    kdiga.align(student, teacher, *batch, distance=distance, route=route).backward()
    for name, parameter in student.named_parameters():
        # On ReLU networks the exact second derivative by the last layer's input side is all there is, and enough.
        if name.endswith("bias") and activation is nn.ReLU and "7" not in name:
            continue
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("distance", DISTANCES)
def test_exact_equals_finite_difference_on_a_smooth_network(distance, teacher, batch):
    gradients = []
    for route in ("exact", kdiga.FiniteDifference(0.05)):
        student = five_layers(1)  # SiLU, batch norm in train mode
        kdiga.align(student, teacher, *batch, distance=distance, route=route).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
    exact, difference = gradients
    assert (exact - difference).norm() / exact.norm() < 5e-3


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradcheck_of_the_exact_route(distance):
    """Derivative by the parameters against finite differences of the value, in float64."""
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1])
    weight = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    other = torch.randn(3, 16, dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self, matrix):
            super().__init__()
            self.matrix = matrix

        def forward(self, pixels):
            return torch.tanh(pixels.flatten(1) @ self.matrix.T)

    def term(matrix):
        return kdiga.align(Net(matrix), Net(other), images, labels, distance=distance)

    assert torch.autograd.gradcheck(term, (weight,))


def test_teacher_is_left_as_found(student, batch):
    teacher = five_layers(2).train()
    before = copy.deepcopy(teacher.state_dict())
    kdiga.align(student, teacher, *batch).backward()
    assert teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_ready_gradient_replaces_the_teacher(student, teacher, batch):
    ready = kdiga.input_gradient(teacher, *batch)
    live = kdiga.align(copy.deepcopy(student), teacher, *batch)
    assert torch.equal(live, kdiga.align(copy.deepcopy(student), None, *batch, teacher_gradient=ready))


@pytest.mark.filterwarnings("ignore:the student's input gradient is exactly zero")
@pytest.mark.parametrize("distance", DISTANCES)
def test_an_example_without_a_label_counts_0_with_a_ready_gradient(distance, student, teacher, batch):
    images, labels = batch
    ready = kdiga.input_gradient(teacher, *batch)
    nothing = torch.full_like(labels, -100)
    assert kdiga.align(student, None, images, nothing, teacher_gradient=ready, distance=distance) == 0
    some = torch.where(torch.arange(len(labels)) < 5, -100, labels)
    live = kdiga.align(copy.deepcopy(student), teacher, images, some, distance=distance)
    found = kdiga.align(student, None, images, some, teacher_gradient=ready, distance=distance)
    assert found.item() == pytest.approx(live.item(), rel=1e-4)


def test_logits_are_those_of_the_same_forward(student, teacher, batch):
    images, labels = batch
    expected = copy.deepcopy(student)(images)
    term, logits = kdiga.align(student, teacher, images, labels, return_logits=True)
    assert torch.allclose(logits, expected, atol=1e-6)
    (F.cross_entropy(logits, labels) + term).backward()
    assert int(student[1].num_batches_tracked) == 1


def test_input_gradient_leaves_the_model_as_found(batch):
    model = five_layers(1).train()
    before = copy.deepcopy(model.state_dict())
    gradient = kdiga.input_gradient(model, *batch)
    assert not gradient.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_works_in_a_plain_loop_with_a_fused_attention_student():
    student = kdiga.load_model("vit-micro", in_channels=1, image_size=8, num_classes=4).train()
    teacher = kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4)
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    for route in ROUTES:
        student.zero_grad()
        kdiga.align(student, teacher, images, labels, route=route).backward()
        assert all(parameter.grad is not None for parameter in student.parameters())


BAD = {
    "rank": (lambda i, y: (i[:, 0], y), r"shape \(12, 8, 8\)"),
    "bytes": (lambda i, y: ((i * 255).byte(), y), "floating point"),
    "range": (lambda i, y: (i * 3 - 1, y), r"must be in \[0, 1\]"),
    "nan": (lambda i, y: (i * float("nan"), y), r"must be in \[0, 1\]"),
    "label range": (lambda i, y: (i, y + 90), "the model has 10 classes"),
    "float labels": (lambda i, y: (i, y.float()), "must be integers"),
    "too few labels": (lambda i, y: (i, y[:3]), r"shape \(3,\) for 12 images"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_batches_are_refused(case, student, teacher, batch):
    spoil, message = BAD[case]
    with pytest.raises(kdiga.InputError, match=message):
        kdiga.align(student, teacher, *spoil(*batch))


def test_other_bad_input_is_refused(student, teacher, batch):
    images, labels = batch
    with pytest.raises(kdiga.InputError, match="did you mean l2"):
        kdiga.align(student, teacher, *batch, distance="L2")
    with pytest.raises(kdiga.InputError, match="route 'approximate' is not known"):
        kdiga.align(student, teacher, *batch, route="approximate")
    with pytest.raises(kdiga.InputError, match="neither a teacher"):
        kdiga.align(student, None, *batch)
    with pytest.raises(kdiga.InputError, match="teacher_gradient had shape"):
        kdiga.align(student, None, *batch, teacher_gradient=torch.zeros(12, 64))
    smaller = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(kdiga.InputError, match="10 classes and the teacher 7"):
        kdiga.align(student, smaller, images, labels % 7)


def test_values_are_looked_at_unless_it_is_turned_off(student, teacher, batch):
    images, labels = batch
    for bad in ((images * 2, labels), (images, labels - 9)):
        with pytest.raises(kdiga.InputError):
            kdiga.align(student, teacher, *bad)
    kdiga.align(student, teacher, images * 2, labels, check_values=False)
    with pytest.raises(kdiga.InputError, match="must be"):
        kdiga.align(student, teacher, images[:, 0], labels, check_values=False)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        dead[1].weight.zero_()
    with pytest.warns(kdiga.errors.KdigaWarning, match="exactly zero") as told:
        kdiga.align(dead, teacher, images, labels)
    assert told[0].filename == __file__, "a warning names the line that called"
    kdiga.align(dead, teacher, images, labels, check_values=False)
    with pytest.warns(kdiga.errors.KdigaWarning, match="eval mode") as told:
        kdiga.align(student.eval(), teacher, images, labels)
    assert told[0].filename == __file__


def test_a_compiled_student_is_refused_on_the_exact_route_only(student, teacher, batch):
    student._orig_mod = None
    with pytest.raises(kdiga.InputError, match="use route 'finite-difference'"):
        kdiga.align(student, teacher, *batch)
    assert kdiga.align(student, teacher, *batch, route="one-sided").isfinite()


def test_a_ready_gradient_comes_before_the_teacher_and_carries_no_graph(student, teacher, batch):
    ready = torch.zeros_like(batch[0], requires_grad=True)
    alone = kdiga.align(copy.deepcopy(student), None, *batch, teacher_gradient=ready, distance="l1")
    term, logits = kdiga.align(student, teacher, *batch, teacher_gradient=ready, distance="l1", return_logits=True)
    assert torch.equal(term, alone)
    assert logits.requires_grad
    term.backward()
    assert ready.grad is None


def test_the_usual_distance_and_route(teacher, batch):
    usual = kdiga.align(five_layers(1), teacher, *batch)
    assert torch.equal(usual, kdiga.align(five_layers(1), teacher, *batch, distance="l2", route="exact"))
    assert not torch.equal(usual, kdiga.align(five_layers(1), teacher, *batch, distance="l2-squared"))
