"""What a run chooses for itself: the route by trying, the rest by timing. A choice survives an interruption."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.gradients.routes import Exact, FiniteDifference
from kdiga.training import TrainingSettings, autotune
from kdiga.training.autotune import choose_settings
from kdiga.training.distiller import choose_route
from kdiga.types import Batch
from tests.conftest import five_layers
from tests.training.test_loop import QUICK, THREAT, small


class OnceOnly(torch.autograd.Function):
    """A doubling whose backward cannot be differentiated, as in a fused kernel."""

    @staticmethod
    def forward(ctx, images):
        return 2 * images

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient


class Fused(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return OnceOnly.apply(self.network(images))


def some(batch):
    return Batch(*batch, torch.arange(len(batch[0])))


def test_auto_is_exact_where_the_student_can_be_differentiated_twice(student, batch):
    student.train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    route, choice = choose_route(student, some(batch), "loss", "auto")
    assert route == Exact()
    assert choice["chosen"] == "exact"
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_auto_is_finite_difference_elsewhere_and_says_why(student, batch):
    route, choice = choose_route(Fused(student), some(batch), "loss", "auto", 0.3)
    assert route == FiniteDifference(0.3)
    assert "cannot be differentiated twice (trying to differentiate twice" in choice["why"]


def test_exact_by_name_is_refused_where_it_would_be_half_a_derivative(robust, batch):
    """Asked for the parameters alone, PyTorch drops what goes through such an operation without a word."""
    data = kdiga.load_data("digits").train.take(slice(200))
    with pytest.raises(InputError, match=r"route was 'exact'.*cannot be differentiated twice.*use route finite-diff"):
        kdiga.distill(Fused(five_layers(1)), five_layers(2), data, method="kdiga", epochs=1, route="exact", **QUICK)


def test_a_vision_transformer_is_exact(batch):
    """Attention falls back to the kernel with a second derivative for this route alone."""
    student = kdiga.load_model("vit-micro", in_channels=1, image_size=8, num_classes=10).train()
    assert choose_route(student, some(batch), "loss", "auto")[0] == Exact()


def test_a_route_by_name_is_taken_without_a_trial(batch):
    route, choice = choose_route(torch.nn.Identity(), some(batch), "loss", "one-sided")
    assert route == FiniteDifference(sides=1)
    assert choice["chosen"] == "one-sided"


def test_methods_without_an_input_gradient_have_no_route(robust, stripes):
    result = kdiga.distill(small(), robust, stripes, method="kd", epochs=1, threat=THREAT, **QUICK)
    assert result.choices["route"]["chosen"] is None


def seconds_a_step(monkeypatch, seconds_of):
    """Replace the clock: ``seconds_of`` maps settings to the seconds of a step."""
    now = itertools.accumulate(itertools.repeat(0.0))
    state = {"now": next(now)}
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: state["now"])

    def timed(settings):
        first = [True]

        def step(_number):
            start, each = seconds_of(settings)
            state["now"] += each + (start if first.pop() else 0.0) if first else each

        return step

    return timed


def test_the_fastest_layout_and_precision_are_kept(monkeypatch):
    def seconds_of(settings):
        return 0.0, 1.0 + 0.5 * settings.channels_last + 0.2 * (settings.precision == "fp32")

    settings = TrainingSettings(channels_last="auto", precision="auto")
    found, chosen = choose_settings(settings, 100, {0: 1.0}, seconds_a_step(monkeypatch, seconds_of))
    assert (found.channels_last, found.precision) == (False, "bf16")
    assert chosen["precision"]["seconds_a_step"] == {"fp32": 1.2, "bf16": 1.0}
    assert choose_settings(TrainingSettings(), 100, {0: 1.0}, lambda _: pytest.fail("asked"))[1] == {}


@pytest.mark.parametrize(
    ("steps", "expected", "why"),
    [
        (100, False, "compiling takes longer than it could save"),
        (300, False, "do not win that back"),
        (9000, True, "win"),
    ],
)
def test_compiling_has_to_pay_for_itself(steps, expected, why, monkeypatch):
    def seconds_of(settings):
        return (200.0, 0.5) if settings.compile else (0.0, 1.0)

    timed = seconds_a_step(monkeypatch, seconds_of)
    found, chosen = choose_settings(TrainingSettings(compile="auto"), steps, {0: 1.0}, timed)
    assert found.compile is expected
    assert why in chosen["compile"]["why"]


def test_choices_are_kept_with_the_run_and_by_a_resumed_one(robust, stripes, tmp_path, monkeypatch):
    settings = QUICK | {"method": "kdiga", "epochs": 3, "threat": THREAT, "precision": "auto", "channels_last": "auto"}
    seen = []
    whole = kdiga.distill(small(), robust, stripes, on_choice=lambda *one: seen.append(one), **settings)
    assert {name for name, _ in seen} == {"channels_last", "precision", "route"}
    assert json.loads(json.dumps(whole.to_dict()))["choices"]["route"]["chosen"] == "exact"

    def stop(record):
        if record.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kdiga.distill(small(), robust, stripes, out=tmp_path, on_epoch=stop, **settings)
    monkeypatch.setattr(autotune, "choose_settings", lambda *_: pytest.fail("chosen anew"))
    resumed = kdiga.distill(small(), robust, stripes, out=tmp_path, resume=True, **settings)
    assert resumed.choices["precision"]


def test_trials_leave_no_trace(robust, stripes):
    """A run that tries things ends bit for bit as one that is told."""
    settings = QUICK | {"method": "kdiga", "epochs": 1, "threat": THREAT}
    told = kdiga.distill(small(), robust, stripes, route="exact", **settings)
    tried = kdiga.distill(small(), robust, stripes, route="auto", **settings)
    for key, value in told.last_state.items():
        assert torch.equal(value, tried.last_state[key]), key


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"route": "exat"}, "did you mean exact"),
        ({"probe": 0.0}, "probe was 0.0"),
        ({"compile": "maybe"}, "compile 'maybe' is not known"),
        ({"channels_last": "no"}, "channels_last 'no'"),
        ({"precision": "fp16"}, "precision 'fp16'"),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**setting)


ROUTED = [
    ("kdiga", "finite-difference"),
    ("kdiga", "one-sided"),
    ("kdiga", "exact"),
    ("tangent", "exact"),
    ("rslad", "exact"),
]


@pytest.mark.parametrize(("method", "route"), ROUTED)
def test_a_compiled_run_equals_an_eager_one(method, route, robust, stripes, monkeypatch):
    """Two epochs by ``aot_eager``, which traces and splits the graphs like the real thing and generates no code."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **options: real(forward, backend="aot_eager", **options))
    settings = QUICK | {"method": method, "epochs": 2, "threat": THREAT, "route": route}
    eager = kdiga.distill(small(), robust, stripes, **settings)
    compiled = kdiga.distill(small(), robust, stripes, compile=True, **settings)
    for key, value in eager.last_state.items():
        assert torch.allclose(value, compiled.last_state[key], atol=2e-4), key
    assert compiled.passes["teacher_forwards"] == eager.passes["teacher_forwards"]
    assert compiled.passes["student_backwards"] == eager.passes["student_backwards"]


@pytest.mark.parametrize("method", ["kdiga", "tangent"])
def test_layout_changes_rounding_alone(method, robust, stripes):
    settings = QUICK | {"method": method, "epochs": 1, "threat": THREAT}
    one, two = (kdiga.distill(small(), robust, stripes, channels_last=flag, **settings) for flag in (True, False))
    for key, value in one.last_state.items():
        assert torch.allclose(value, two.last_state[key], atol=2e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kdiga", "tangent", "rslad"])
def test_generated_code_equals_eager(method, robust, stripes):
    settings = QUICK | {"method": method, "epochs": 1, "threat": THREAT, "route": "one-sided"}
    eager = kdiga.distill(small(), robust, stripes, **settings)
    compiled = kdiga.distill(small(), robust, stripes, compile=True, **settings)
    for key, value in eager.last_state.items():
        assert torch.allclose(value, compiled.last_state[key], atol=1e-3), key


@pytest.mark.parametrize("route", ["exact", "finite-difference", "one-sided"])
def test_bf16_learns(route, robust, stripes):
    settings = QUICK | {"method": "kdiga", "epochs": 3, "threat": THREAT, "route": route}
    assert kdiga.distill(small(), robust, stripes, precision="bf16", **settings).history[-1].clean > 0.8


def test_a_run_shorter_than_the_trial_keeps_its_schedule(robust, stripes):
    """The trial takes more steps than the run has, and one-cycle ends with the run."""
    data = kdiga.ImageSet(stripes.images[:32], stripes.labels[:32], stripes.classes)
    settings = {**QUICK, "batch_size": 16, "precision": "auto", "stop_at_chance": False, "on_warning": lambda _: None}
    result = kdiga.distill(small(), robust, data, method="kd", epochs=1, threat=THREAT, validation=data, **settings)
    assert set(result.choices["precision"]["seconds_a_step"]) == {"fp32", "bf16"}
