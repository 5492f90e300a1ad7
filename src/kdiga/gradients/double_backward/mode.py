"""The context in which PyTorch's operations are the ones of this package, in any module that calls them."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from kdiga.gradients.double_backward import activations, attention, batch_norm, convolution, row_norm
from kdiga.gradients.double_backward.activations import Activation
from kdiga.gradients.double_backward.checkpointing import recomputing_under
from kdiga.gradients.double_backward.convolution import Options
from kdiga.gradients.double_backward.shared_context import SharedContext

Replacement = Callable[..., Any]
"""Function with the arguments of the one that it replaces; ``NotImplemented`` leaves the call to PyTorch."""


@contextmanager
def fast_double_backward() -> Generator[None]:
    """Run a forward pass so that its input gradient is cheap to differentiate.

    Inside, convolution, batch, layer and group norm, attention and the usual activations of any module are autograd
    functions with the same values and derivatives, whose second derivative is made of the kernels of the first.
    Everything else is PyTorch's. Only the forward pass has to run inside; both backward passes may run outside.
    The pass that forms an input gradient by ``torch.autograd.grad`` forms no weight gradients.

    Formulas are in the modules of ``kdiga.gradients.double_backward``. For a penalty on input gradients:
    Drucker and LeCun, 1992 (double backpropagation).

    Raises:
        RuntimeError: Later, where a third derivative is asked for.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.SiLU(), torch.nn.Flatten())
    >>> images = torch.rand(4, 1, 3, 3, requires_grad=True)
    >>> with fast_double_backward():
    ...     scores = network(images)
    >>> (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    >>> gradient.square().sum().backward()
    """
    with recomputing_under(TwiceDifferentiable), TwiceDifferentiable():
        yield


@contextmanager
def pytorch_double_backward() -> Generator[None]:
    """Run a forward pass so that PyTorch can differentiate it twice: attention without fused kernels.

    PyTorch's choice of kernels is one for the process, so other threads have attention without fused kernels meanwhile.
    """
    with recomputing_under(_unfused_attention), _unfused_attention():
        yield


_UNFUSED = SharedContext(lambda: sdpa_kernel(SDPBackend.MATH))


def _unfused_attention() -> AbstractContextManager[Any]:
    return _UNFUSED


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces the functions of :data:`REPLACEMENTS` where the second derivative by an input may be needed."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the result of the replacement, or else of the function."""
        kwargs = kwargs or {}
        replacement = REPLACEMENTS.get(func)
        if replacement is not None and _differentiable(args[0] if args else kwargs.get("input", kwargs.get("query"))):
            result = replacement(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func in OPENED:
            with self:
                return _opened(func)(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            with _unfused_attention():  # the only kernel that PyTorch differentiates twice
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _differentiable(tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.requires_grad
        and torch.is_grad_enabled()
        and not tensor.is_complex()
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    )


@cache
def _opened(func: Any) -> Callable[..., Any]:
    """Return a Python function of ``torch.nn.functional`` that the mode does not intercept as a whole."""
    scope = {**func.__globals__, "has_torch_function": lambda _: False}
    opened = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def _convolution(options_of: Callable[..., Options | None]) -> Replacement:
    def replaced(input: Tensor, weight: Tensor, bias: Tensor | None = None, *arguments: Any, **options: Any) -> Any:
        found = options_of(weight.shape[2:], *arguments, **options)
        if input.dim() != weight.dim() or found is None:
            return NotImplemented
        return convolution.convolution(input, weight, bias, found)

    return replaced


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if input.dim() < 2 or (training and input.numel() == input.shape[1]) or (not training and running_mean is None):
        return NotImplemented
    return batch_norm.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    if input.dim() <= len(normalized_shape):
        return NotImplemented
    return row_norm.layer_norm(input, normalized_shape, weight, bias, eps)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    if input.dim() < 2 or input.shape[1] % num_groups or input.numel() == len(input) * num_groups:
        return NotImplemented
    return row_norm.group_norm(input, num_groups, weight, bias, eps)


def _activation(activation: Activation) -> Replacement:
    return lambda input, inplace=False: activations.activate(activation, input, inplace)


def _activation_(activation: Activation) -> Replacement:
    return lambda input: activations.activate(activation, input, inplace=True)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return activations.activate(activations.clamp_activation(min_val, max_val), input, inplace)


def _gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    return activations.activate(activations.GELU if approximate == "none" else activations.GELU_TANH, input)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    learned_or_flat = attn_mask is not None and (attn_mask.requires_grad or attn_mask.dim() < 2)
    same = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if query.dim() < 3 or dropout_p > 0 or learned_or_flat or not same or (is_causal and attn_mask is not None):
        return NotImplemented
    masking = attention.Masking(attn_mask, is_causal, query.shape[-1] ** -0.5 if scale is None else scale)
    return attention.attention(query, key, value, masking)


_nn = torch._C._nn  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]

REPLACEMENTS: dict[Any, Replacement] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution(convolution.options_of)),
    **dict.fromkeys(
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        _convolution(convolution.transposed_options_of),
    ),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.relu6: lambda input, inplace=False: _hardtanh(input, 0.0, 6.0, inplace),
    F.hardtanh: _hardtanh,
    F.silu: _activation(activations.SILU),
    _nn.silu: _activation(activations.SILU),
    _nn.silu_: _activation_(activations.SILU),
    F.gelu: _gelu,
    F.hardswish: _activation(activations.HARDSWISH),
    _nn.hardswish: _activation(activations.HARDSWISH),
    _nn.hardswish_: _activation_(activations.HARDSWISH),
    F.hardsigmoid: _activation(activations.HARDSIGMOID),
    _nn.hardsigmoid: _activation(activations.HARDSIGMOID),
    _nn.hardsigmoid_: _activation_(activations.HARDSIGMOID),
    F.scaled_dot_product_attention: _attention,
}
"""The replacement of each function; what the replacement does not cover runs as PyTorch has it."""

OPENED = {F.multi_head_attention_forward}
"""Python functions that call replaced functions."""
