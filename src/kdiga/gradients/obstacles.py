"""What keeps a student from exact alignment: compilation, and second derivatives that are missing or wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdiga.errors import KdigaError, reason_of
from kdiga.gradients.routes import Exact
from kdiga.losses import Score, score_by_name
from kdiga.model_output import logits_at
from kdiga.model_state import BufferState, RandomState, copied, device_of, frozen_statistics, seeded
from kdiga.statistics import percent

TOLERANCE = 0.01
"""Largest relative error of a right second derivative; the difference's own error in float64 is about 1e-5."""
DIRECTIONS = 4
STEPS = (1e-10, 1e-8, 1e-6, 1e-4, 1e-3)
"""Steps of the difference, relative to the variables, each tried where all before find an error.

Within a long one some of a network's many ReLUs switch. A part that always runs in float32 rounds a short one away.
"""

Function = Callable[..., Tensor]


def compiled_part(model: nn.Module) -> str | None:
    """Return the name of a compiled module in a model, "" for the model itself; None without one."""
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            return name
    return None


def obstacle_to_differences(student: nn.Module, images: Tensor) -> str | None:
    """Return why a difference of two passes of a student is no derivative, as the end of a sentence; None if it is.

    Two passes from the same random state and buffers must return the same logits.
    """
    random, buffers, logits = RandomState(images.device), BufferState(student), list[Tensor]()
    for _ in range(2):
        with torch.no_grad(), random.again(), buffers.again(student):
            logits.append(logits_at(student, images))
    first, second = logits
    if bool((first - second).abs().max() <= 1e-3 * first.abs().max()):
        return None
    return "two passes at the same images differ: it draws random numbers of NumPy or of an own torch.Generator"


def obstacle_to_double_backward(
    student: nn.Module, images: Tensor, labels: Tensor, route: Exact, score: Score = "loss", *, always: bool = True
) -> str | None:
    """Return why a student cannot be differentiated twice, as the end of a sentence; None if it can.

    A trial finds derivatives that are missing. A comparison with differences of first derivatives, on noise and in a
    float64 copy, finds those that are wrong: a custom ``autograd.Function`` that saves an intermediate value is
    differentiated as if this were a constant.

    Args:
        student: Module that maps images to logits; its gradients, statistics and random numbers do not change.
        images: A few images, float (batch, channel, height, width).
        labels: Labels, int64, shape (batch,); an example without a label is tried with class 0.
        route: Exact route.
        score: Score whose input gradient is taken.
        always: Whether to compare also where no custom ``autograd.Function`` is part of the student.
    """
    if compiled_part(student) is not None:
        return "it is compiled"
    labels = labels.clamp_min(0)  # without a label all derivatives are 0
    device = device_of(student)
    with frozen_statistics(student), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            custom = _differentiate_twice(student, images, labels, route, score)
        except KdigaError:
            raise
        except Exception as error:  # a backward pass of the student's own code may raise anything
            return reason_of(error)
        return _wrong_part(student, images, labels, route, score) if always or custom else None


def _differentiate_twice(student: nn.Module, images: Tensor, labels: Tensor, route: Exact, score: Score) -> bool:
    """Form a second derivative, and return whether custom functions are part of the graph."""
    with route.forward_context():
        inputs = images.detach().requires_grad_()
        total = score_by_name(score)(logits_at(student, inputs), labels).sum()
    (gradient,) = torch.autograd.grad(total, inputs, create_graph=True)
    for node in _nodes(gradient.grad_fn):
        if type(node).__name__ in ("Error", "NotImplemented"):
            node(torch.zeros(()))  # raises its message; a backward pass silently leaves such a branch out
    if gradient.requires_grad:
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        torch.autograd.grad(gradient.square().sum(), [inputs, *parameters], allow_unused=True)
    return has_custom_functions(total.grad_fn)


def has_custom_functions(node: Any) -> bool:
    """Return whether a graph has nodes of an ``autograd.Function`` that is not ours."""
    return any(isinstance(one, BackwardCFunction) and not _module_of(one).startswith("kdiga.") for one in _nodes(node))


def _module_of(node: Any) -> str:
    # The class of the node itself is made by PyTorch; it refers to the autograd.Function.
    return getattr(type(node), "_forward_cls", type(node)).__module__


def _nodes(node: Any) -> Generator[Any]:
    """Yield the nodes of a graph from the one of its result on."""
    seen, pending = set[Any](), [node]
    while pending:
        one = pending.pop()
        if one is not None and one not in seen:
            seen.add(one)
            pending.extend(following for following, _ in one.next_functions)
            yield one


def _wrong_part(student: nn.Module, images: Tensor, labels: Tensor, route: Exact, score: Score) -> str | None:
    """Return what is wrong with the second derivative, and in which module if that can be found."""
    with seeded(7):
        noise = torch.rand_like(images, dtype=torch.float64)
    try:
        double = _with_fixed_state(copied(student).double())
        parts = _inputs_of_parts(double, noise)
    except Exception:  # a student that cannot be copied, or that fixes its dtype, cannot be examined
        return None
    error = _relative_error(double, lambda x: score_by_name(score)(logits_at(double, x), labels).sum(), noise, route)
    if error <= TOLERANCE:
        return None
    for name, (module, x) in reversed(parts.items()):
        part = _relative_error(module, _weighted_sum(module), x, route) if _has_custom(module, x) else 0.0
        if part > TOLERANCE:
            return f"the second derivative of {type(module).__name__} at {name!r} is wrong by {percent(part, 0)}"
    return f"its second derivative is wrong by {percent(error, 0)}"


def _with_fixed_state(model: nn.Module) -> nn.Module:
    """Stop all that a forward pass changes, such as the vectors of spectral norm; batch norm keeps its mode."""
    for module in model.modules():
        if next(module.buffers(recurse=False), None) is not None and not isinstance(module, _BatchNorm):
            module.training = False
    return model


def _inputs_of_parts(model: nn.Module, images: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return the modules that take one tensor, with this tensor, by name, in the order of the forward pass."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point():
                found.setdefault(name, (module, args[0].detach().clone()))

        return hook

    hooks = [module.register_forward_pre_hook(record(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(images * 1)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _has_custom(module: nn.Module, x: Tensor) -> bool:
    with torch.enable_grad():
        result = module(x.detach().requires_grad_() * 1)
    return isinstance(result, Tensor) and has_custom_functions(result.grad_fn)


def _weighted_sum(module: nn.Module) -> Function:
    def total(x: Tensor) -> Tensor:
        result = module(x)
        if not isinstance(result, Tensor):
            return x.sum() * 0
        with seeded(9):
            weights = torch.randn(result.shape, dtype=result.dtype, device=result.device)
        return (result * weights).sum()

    return total


def _relative_error(model: nn.Module, function: Function, x: Tensor, route: Exact) -> float:
    """Return the relative error of second derivatives along random directions of the input and all parameters.

    It is the smallest of a few steps: a wrong derivative is wrong at each.
    """
    variables = [x.detach(), *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    with seeded(8):
        along = [
            [torch.randn_like(one) * one.detach().std(correction=0).clamp_min(1e-3) for one in variables]
            for _ in range(DIRECTIONS)
        ]
        cotangent = torch.randn_like(x)

    def first(create_graph: bool = False) -> tuple[Tensor, Tensor]:
        inputs = variables[0].detach().requires_grad_()
        with torch.enable_grad(), seeded(6), route.forward_context():
            (gradient,) = torch.autograd.grad(function(inputs * 1), inputs, create_graph=create_graph)
        return inputs, (gradient * cotangent).sum()

    inputs, value = first(create_graph=True)
    exact: list[Tensor | None] = [None] * len(variables)
    if value.requires_grad:
        exact = list(torch.autograd.grad(value, [inputs, *variables[1:]], allow_unused=True))
    error = math.inf
    for step in STEPS:
        error = min(error, _error_at(step, variables, along, exact, lambda: first()[1]))
        if error <= TOLERANCE:
            break
    return error if error < math.inf else 0.0


def _error_at(
    step: float,
    variables: Sequence[Tensor],
    along: Sequence[Sequence[Tensor]],
    exact: Sequence[Tensor | None],
    run: Callable[[], Tensor],
) -> float:
    """Return the median error of derivatives relative to differences of a step; infinity where it changes nothing.

    A ReLU that switches within the step spoils one direction, and a wrong derivative all.
    """
    errors, sizes = [], []
    for direction in along:
        ahead, behind = (_shifted(variables, direction, sign * step, run) for sign in (1, -1))
        difference = (ahead - behind) / (2 * step)
        product = sum((a * b).sum() for a, b in zip(exact, direction, strict=True) if a is not None)
        errors.append(difference - product)
        sizes.append(difference)
    error, size = (torch.stack(one).abs().median().item() for one in (errors, sizes))
    return error / size if size > 0 else math.inf


def _shifted(
    variables: Sequence[Tensor], direction: Sequence[Tensor], step: float, run: Callable[[], Tensor]
) -> Tensor:
    before = [one.detach().clone() for one in variables]
    with torch.no_grad():
        for one, shift in zip(variables, direction, strict=True):
            one.add_(shift, alpha=step)
    try:
        return run().detach()
    finally:
        with torch.no_grad():
            for one, value in zip(variables, before, strict=True):
                one.copy_(value)
