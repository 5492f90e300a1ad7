"""What the custom autograd functions of this package share: pruned derivatives, layouts, and the end of the chain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

THIRD_DERIVATIVE = (
    "fast_double_backward computes first and second derivatives, and this is a third one. Run the forward pass outside "
    "kdiga.fast_double_backward(), with PyTorch's own derivatives."
)


def wanted(ctx: Any, place: int) -> bool:
    """Return whether the backward pass that runs now needs the derivative by the input at ``place``.

    ``ctx.needs_input_grad`` is fixed in the forward pass. ``torch.autograd.grad(loss, images)`` needs no
    weight gradients, and only the engine knows that. The inputs before ``place`` must all be tensors.
    """
    if not ctx.needs_input_grad[place]:
        return False
    node = ctx.next_functions[place][0]
    try:
        return torch._C._will_engine_execute_node(node)  # pyright: ignore[reportPrivateUsage]
    except RuntimeError:  # raised only for a leaf that torch.autograd.grad was asked for
        return True


def last_derivative(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Make the derivatives of a second derivative raise :data:`THIRD_DERIVATIVE`, whichever tensor leads to them.

    ``once_differentiable`` raises only where a cotangent has a graph. A third derivative through a saved tensor would
    be wrong without an error.
    """

    @wraps(backward)
    def run(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        with torch.no_grad():
            results = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():
            return results
        places = [place for place, result in enumerate(results) if result is not None]
        error = torch._C._functions.DelayedError(THIRD_DERIVATIVE, len(places))  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        marked = error(*(results[place].detach().requires_grad_() for place in places))
        found = dict(zip(places, marked if isinstance(marked, tuple) else (marked,), strict=True))
        return tuple(found.get(place) for place in range(len(results)))

    return run


class Source(NamedTuple):
    """How to compute a tensor again from tensors that are saved anyway."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    version: int


def mark_source(result: Tensor, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Note on a tensor that ``function(*inputs)`` gives it again, so that :func:`to_save` saves the inputs instead."""
    result._kdiga_source = Source(function, inputs, result._version)  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    return result


def to_save(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return tensors to save for a backward pass, and the function that gives ``tensor`` from them."""
    source: Source | None = getattr(tensor, "_kdiga_source", None)
    if source is None or source.version != tensor._version:  # pyright: ignore[reportPrivateUsage]
        return _itself, (tensor,)
    return source.function, source.inputs


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def in_layout_of(reference: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor in the memory layout of a reference of the same shape: channels_last or contiguous."""
    layout = torch.channels_last if prefers_channels_last(reference) else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


def prefers_channels_last(tensor: Tensor) -> bool:
    """Return whether a tensor is in channels_last layout and not in the default one as well."""
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which operations run in the dtype of their inputs."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast gives a matrix product or convolution of this tensor; None if it leaves it."""
    device = tensor.device.type
    if not torch.is_autocast_enabled(device) or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return None
    return torch.get_autocast_dtype(device)


def in_autocast_float32(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Return the arguments of a layer or group norm as autocast casts them: on a CPU it leaves them."""
    device = next(one.device.type for one in tensors if one is not None)
    if device == "cpu" or not torch.is_autocast_enabled(device):
        return tensors
    halves = (torch.float16, torch.bfloat16)
    return tuple(one.float() if one is not None and one.dtype in halves else one for one in tensors)
