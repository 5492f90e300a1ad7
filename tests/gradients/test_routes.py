"""Routes: what they cost, that they agree where they should, and what they refuse."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.gradients.routes import SAFE_PROBES, Exact, FiniteDifference, route_by_name
from kdiga.gradients.student_pass import PassOptions, StudentPass
from kdiga.losses import DISTANCES
from kdiga.model_state import seeded
from tests.conftest import five_layers

SIDES = {"central": 2, "one-sided": 1}


def derivative(student, route, images, labels, *, distance="l2", batch_norm="train", compiled=None):
    """The parameter gradient of a label and an alignment term together, as one vector."""
    target = torch.zeros_like(images) + 0.05
    point = StudentPass(
        student, images, labels, PassOptions("differentiable", route, batch_norm=batch_norm), compiled=compiled
    )
    term = DISTANCES[distance](point.input_gradient, target).mean()
    (point.losses.mean() + 3 * term).backward()
    return torch.cat([parameter.grad.flatten() for parameter in student.parameters()])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_equals_the_exact_route_on_a_smooth_network(distance, sides, batch_norm, batch):
    images, labels = batch[0].double(), batch[1]
    run = partial(derivative, images=images, labels=labels, distance=distance, batch_norm=batch_norm)
    exact = run(five_layers(1).double(), Exact())
    difference = run(five_layers(1).double(), FiniteDifference(1e-4, sides))
    assert relative(difference, exact) < (1e-6 if sides == 2 else 1e-3)


def test_the_error_falls_with_the_probe_as_the_order_says(batch):
    """One-sided: first order; central: second."""
    images, labels = batch[0].double(), batch[1]
    exact = derivative(five_layers(1).double(), Exact(), images, labels)
    for sides, order in ((1, 1), (2, 2)):
        far, near = (
            relative(derivative(five_layers(1).double(), FiniteDifference(probe, sides), images, labels), exact)
            for probe in (0.04, 0.004)
        )
        assert far / near == pytest.approx(10**order, rel=0.3)


def test_every_example_is_moved_by_the_probe(batch):
    """Without batch norm each by the same length, however small its share; with it by one common factor."""
    images, labels = batch
    for batch_norm, equal in ((False, True), (True, False)):
        student, moved = five_layers(1, batch_norm=batch_norm), []
        student.register_forward_pre_hook(lambda _, inputs, moved=moved: moved.append(inputs[0].detach()))
        derivative(student, FiniteDifference(0.3), images, labels, distance="l2-squared")
        lengths = (moved[-2] - images).flatten(1).norm(dim=1)
        assert lengths.square().mean().sqrt().item() == pytest.approx(0.3, rel=1e-4)
        assert bool(torch.allclose(lengths, torch.full_like(lengths, 0.3), rtol=1e-3)) == equal


class OwnBatchNorm(nn.Module):
    def forward(self, x):
        var, mean = torch.var_mean(x, (0, 2, 3), keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("size", [2, 12])
def test_a_batch_that_own_code_couples_is_moved_by_one_factor(size, batch):
    images, labels = batch[0][:size].double(), batch[1][:size]
    with seeded(1):
        layers = (nn.Conv2d(1, 4, 3, padding=1), OwnBatchNorm(), nn.SiLU(), nn.Dropout(0.2), nn.Conv2d(4, 4, 3))
        student = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 10)).double()
    found = []
    for route in (Exact(), FiniteDifference(1e-4)):
        with seeded(2):
            found.append(derivative(copy.deepcopy(student), route, images, labels, distance="l2-squared"))
    assert relative(*found[::-1]) < 1e-5


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_trial_of_the_batch_is_made_once_and_changes_nothing(batch_norm, batch):
    student, passes = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)), []
    student.register_forward_pre_hook(lambda *_: passes.append(1))
    counts = []
    for _ in range(3):
        with seeded(3):
            derivative(student, FiniteDifference(), *batch, batch_norm=batch_norm)
            counts.append((len(passes), torch.rand(()).item()))
        passes.clear()
    assert [count for count, _ in counts] == [5, 3, 3]
    assert len({number for _, number in counts}) == 1


class Passes(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, images):
        self.forwards += 1
        logits = self.model(images)
        logits.register_hook(lambda _: setattr(self, "backwards", self.backwards + 1))
        return logits


@pytest.mark.parametrize(
    ("route", "forwards", "backwards"), [("exact", 1, 2), ("one-sided", 2, 3), ("finite-difference", 3, 4)]
)
def test_passes(route, forwards, backwards, batch):
    """One-sided is one forward and one parameter backward above plain training and the input gradient."""
    student = Passes(five_layers(1))
    derivative(student, route_by_name(route), *batch)
    student.forwards = student.backwards = 0  # the first step has a trial
    derivative(student, route_by_name(route), *batch)
    assert (student.forwards, student.backwards) == (forwards, backwards)


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_bf16_at_the_safe_probe(sides, batch):
    """Within 3 % of fp32 with the same probe at bf16's default; rounding swamps a probe a hundredth as long."""

    def rounding(probe):
        exact_arithmetic = derivative(five_layers(1), FiniteDifference(probe, sides), *batch)
        with torch.autocast("cpu", torch.bfloat16):
            return relative(derivative(five_layers(1), FiniteDifference(probe, sides), *batch), exact_arithmetic)

    assert rounding(SAFE_PROBES[torch.bfloat16]) < 0.03
    assert rounding(0.005) > 0.5


def test_bf16_on_the_exact_route(batch):
    """Within 3 % of fp32."""
    expected = derivative(five_layers(1), Exact(), *batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(derivative(five_layers(1), Exact(), *batch), expected) < 0.03


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_dropout_drops_the_same_units_at_the_probes(sides, batch):
    """A difference between two masks would be noise over the probe's length."""
    images, labels = batch[0].double(), batch[1]

    def student():
        with seeded(4):
            return nn.Sequential(
                nn.Flatten(), nn.Linear(64, 40), nn.SiLU(), nn.Dropout(0.5), nn.Linear(40, 10)
            ).double()

    found = []
    for route in (Exact(), FiniteDifference(1e-4, sides)):
        with seeded(7):
            found.append(derivative(student(), route, images, labels))
            after = torch.rand(1)
    assert relative(found[1], found[0]) < 1e-3
    with seeded(7):
        derivative(student(), Exact(), images, labels)
        assert torch.equal(torch.rand(1), after)


def test_default_probes():
    assert SAFE_PROBES[torch.float32] == 0.1
    assert FiniteDifference()._length(torch.bfloat16) == 0.5
    assert FiniteDifference(0.2)._length(torch.bfloat16) == 0.2


def test_half_precision_is_refused(batch):
    images, labels = batch
    with pytest.raises(InputError, match=r"work in torch.float16.*use bfloat16 or float32"):
        derivative(five_layers(1).half(), FiniteDifference(), images.half(), labels)


@pytest.mark.parametrize(
    ("options", "message"), [({"probe": 0}, "above 0"), ({"probe": 0.1, "sides": 3}, "sides was 3")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FiniteDifference(**options)


@pytest.mark.parametrize("route", ["finite-difference", "one-sided"])
def test_a_compiled_forward_gives_the_same_derivative(route, batch):
    """Whatever compiles it; here nothing but a function that runs past the module."""
    images, labels = batch[0].double(), batch[1]
    plain, through = five_layers(1).double(), five_layers(1).double()
    expected = derivative(plain, route_by_name(route), images, labels)
    found = derivative(through, route_by_name(route), images, labels, compiled=through.forward)
    assert relative(found, expected) < 1e-9
    for key, value in plain.state_dict().items():
        assert torch.allclose(value, through.state_dict()[key]), key


def test_the_exact_route_runs_the_module_itself(batch):
    def compiled(_images):
        raise AssertionError("differentiated twice")

    derivative(copy.deepcopy(five_layers(1)), Exact(), *batch, compiled=compiled)


@pytest.mark.parametrize(
    ("route", "fused"),
    [("exact", True), ("exact-pytorch", False), ("finite-difference", True), ("one-sided", True)],
)
def test_only_pytorchs_second_derivatives_give_up_fused_attention(route, fused, monkeypatch, batch):
    student, seen = kdiga.load_model("vit-micro", in_channels=1, image_size=8).train(), []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*arguments, **options):
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return real(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    derivative(student, route_by_name(route), *batch)
    assert seen
    assert set(seen) == {fused}
