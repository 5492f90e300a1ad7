"""What keeps a student from exact alignment is found and named before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdiga
from kdiga.gradients.obstacles import compiled_part, obstacle_to_double_backward
from kdiga.gradients.routes import Exact, FiniteDifference, route_by_name
from kdiga.model_state import seeded
from kdiga.models import ModelSpec, build
from kdiga.training.distiller import choose_route
from kdiga.types import Batch


class Slope(torch.autograd.Function):
    """SiLU that saves its slope, so that PyTorch takes the slope for a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        ctx.save_for_backward(s + x * s * (1 - s))
        return x * s

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gy * ctx.saved_tensors[0]


class Right(Slope):
    """The same with its input saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gy * (s + x * s * (1 - s))


class Once(Right):
    """The same, with a backward pass that PyTorch may not differentiate."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Right.backward(ctx, gy)


class Refusing(Right):
    """The same, with a backward pass whose code fails where it is to be differentiated."""

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise ValueError("only first derivatives")
        return Right.backward(ctx, gy)


class Swish(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)  # pyright: ignore[reportReturnType]


def network(activation: nn.Module) -> nn.Module:
    with seeded(1):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), activation, nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 10)
        )


def obstacle(student: nn.Module, batch: tuple[Tensor, Tensor], route: str = "exact", **options: Any) -> str | None:
    exact = route_by_name(route)
    assert isinstance(exact, Exact)
    return obstacle_to_double_backward(student, batch[0][:2], batch[1][:2], exact, **options)


@pytest.mark.parametrize("route", ["exact", "exact-pytorch"])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), Swish(Right)])
def test_a_right_student_passes_and_is_left_as_it_was(activation, route, batch):
    student = network(activation)
    before, random = {k: v.clone() for k, v in student.state_dict().items()}, torch.get_rng_state()
    assert obstacle(student, batch, route) is None
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2-035"])
def test_a_relu_that_switches_is_no_wrong_derivative(name):
    with seeded(3):
        student = build(ModelSpec(name, activation="relu"))
        batch = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    assert obstacle(student, batch) is None


class InFloat32(nn.Module):
    """A function that always runs in float32, as timm's LayerNormFp32 and the RMS norm of Llama."""

    def __init__(self, function: Callable[[Tensor], Tensor], back: bool = True) -> None:
        super().__init__()
        self.function, self.back = function, back

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x.float())
        return y.to(x.dtype) if self.back else y


LAYER_NORM = InFloat32(lambda x: F.layer_norm(x, (32,)))
RMS_NORM = InFloat32(lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
SOFTMAX = InFloat32(lambda x: x.softmax(-1))
LOGITS = InFloat32(lambda x: x, back=False)


def flat_network(*parts: nn.Module, last: nn.Module, seed: int = 1) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *parts, nn.Linear(32, 10), last)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", [LAYER_NORM, RMS_NORM, SOFTMAX], ids=["layer norm", "RMS norm", "softmax"])
def test_a_part_in_float32_is_no_wrong_derivative(part, seed, batch):
    assert obstacle(flat_network(part, nn.SiLU(), last=LOGITS, seed=seed), batch) is None


@pytest.mark.parametrize("part", [LAYER_NORM, RMS_NORM, nn.ReLU()], ids=["layer norm", "RMS norm", "ReLU"])
def test_a_wrong_second_derivative_is_found_among_parts_in_float32(part, batch):
    found = obstacle(flat_network(part, Swish(Slope), last=LOGITS), batch)
    assert "the second derivative of Swish at '3' is wrong by" in (found or "")


class Linear32(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.float(), self.weight.float(), self.bias.float())


def test_a_wrong_second_derivative_is_found_where_all_is_in_float32(batch):
    with seeded(1):
        student = nn.Sequential(nn.Flatten(), Linear32(64, 32), Swish(Slope), Linear32(32, 10))
    assert "the second derivative of Swish at '2' is wrong by" in (obstacle(student, batch) or "")


@pytest.mark.parametrize("route", ["exact", "exact-pytorch"])
def test_a_wrong_second_derivative_is_named(route, batch):
    found = obstacle(network(Swish(Slope)), batch, route)
    assert found is not None
    assert found.startswith("the second derivative of Swish at '2' is wrong by ")


def test_a_missing_second_derivative_is_found(batch):
    assert "once_differentiable" in (obstacle(network(Swish(Once)), batch) or "")
    assert obstacle(network(Swish(Refusing)), batch) == "only first derivatives"
    assert "hardsigmoid" in (obstacle(network(nn.Hardsigmoid()), batch, "exact-pytorch") or "")
    assert obstacle(network(nn.Hardsigmoid()), batch) is None


def test_compiled_parts_are_found(batch):
    student = network(nn.SiLU())
    assert compiled_part(student) is None
    student[2].compile()
    assert compiled_part(student) == "2"
    assert obstacle(student, batch) == "it is compiled"
    assert compiled_part(torch.compile(network(nn.SiLU()))) == ""


def test_examples_without_a_label_hide_nothing(batch):
    nothing = batch[0], torch.full_like(batch[1], -100)
    assert "Swish at '2' is wrong" in (obstacle(network(Swish(Slope)), nothing) or "")


@pytest.mark.parametrize(
    ("activation", "why"), [(Swish(Slope), "Swish at '2' is wrong by"), (Swish(Once), "once_differentiable")]
)
def test_align_refuses_what_it_cannot_differentiate(activation, why, batch):
    with pytest.raises(
        kdiga.InputError, match=f"cannot be differentiated twice .*{why}.*use route 'finite-difference'"
    ):
        kdiga.align(network(activation), None, *batch, teacher_gradient=torch.rand_like(batch[0]))


def test_auto_takes_finite_differences_where_the_second_derivative_is_wrong(batch):
    images, labels = batch[0][:2], batch[1][:2]
    few = Batch(images, labels, torch.arange(2))
    route, choice = choose_route(network(Swish(Slope)), few, "loss", "auto")
    assert isinstance(route, FiniteDifference)
    assert "Swish at '2' is wrong" in choice["why"]
