"""Contexts that run a model in another mode or with other random numbers, and restore its state at their end."""

from __future__ import annotations

import copy
import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from kdiga.errors import InputError, reason_of

_LOCK = threading.Lock()
_EVALUATING: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Modules that are in eval mode for a while, and the number of blocks that need it."""


def device_of(model: nn.Module, otherwise: torch.device | None = None) -> torch.device:
    """Return the device of a model's parameters; without parameters ``otherwise``, by default the CPU."""
    return next((parameter.device for parameter in model.parameters()), otherwise or torch.device("cpu"))


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put every submodule in eval mode inside, and restore the mode of each at the end.

    Threads may share a model: its train mode returns when the last of them has left.
    """
    with _LOCK:
        training = [module for module in model.modules() if module.training or module in _EVALUATING]
        for module in training:
            _EVALUATING[module] = _EVALUATING.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _LOCK:
            for module in training:
                _EVALUATING[module] -= 1
                if not _EVALUATING[module]:
                    del _EVALUATING[module]
                    module.training = True


_UNCOUNTED: ContextVar[bool] = ContextVar("uncounted", default=False)


@contextmanager
def uncounted() -> Generator[None]:
    """Leave the passes inside out of a run's number of network passes: a trial is no part of the training."""
    token = _UNCOUNTED.set(True)
    try:
        yield
    finally:
        _UNCOUNTED.reset(token)


def is_counted() -> bool:
    """Return whether passes count, that is, run outside :func:`uncounted`."""
    return not _UNCOUNTED.get()


class BufferState:
    """The present values of the buffers that a forward pass of a model may change.

    These are the buffers of all modules in train mode: running statistics, the vectors of spectral norm, counters.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            if module.training
            for name, buffer in module.named_buffers(recurse=False)
        ]

    def restore(self) -> None:
        """Give the buffers these values again."""
        for module, name, buffer, value in self._buffers:
            # .data: no version bump, so a backward that is still pending stays valid.
            buffer.data.copy_(value)
            module._buffers[name] = buffer  # pyright: ignore[reportPrivateUsage]  # a forward pass may replace it

    @contextmanager
    def again(self, model: nn.Module) -> Generator[None]:
        """Start from these values inside; the later ones return at the end."""
        later = BufferState(model)
        self.restore()
        try:
            yield
        finally:
            later.restore()


@contextmanager
def frozen_statistics(model: nn.Module) -> Generator[None]:
    """Restore running statistics and other buffers at the end; batch norm in train mode uses the batch's inside."""
    saved = BufferState(model)
    try:
        yield
    finally:
        saved.restore()


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model; a tensor that a module keeps from an earlier pass loses its graph.

    PyTorch refuses to copy such tensors: features for a loss, or the weight of the older weight norm.

    Raises:
        InputError: If a part of the model cannot be copied.
    """
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    memo: dict[int, Any] = {id(one): one.detach().clone() for one in kept if one.grad_fn is not None}
    try:
        other = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"a model could not be copied ({reason_of(error)}), as a trial of its route and a moving average need; "
            "take what copy.deepcopy refuses out of its modules."
        ) from error
    for module, own in zip(model.modules(), other.modules(), strict=True):
        if getattr(module, "_compiled_call_impl", None) is not None:
            own.compile()  # a copy forgets it, and then can do what the model cannot
    return other


@contextmanager
def frozen_parameters(model: nn.Module) -> Generator[None]:
    """Let no gradient reach the parameters: attacks need none, and some would accumulate them."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_()


@contextmanager
def seeded(*parts: int) -> Generator[None]:
    """Draw random numbers from a stream seeded by the parts alone; the caller's streams do not move."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mix_seed(*parts))
        yield


@contextmanager
def seeded_on_cpu(*parts: int) -> Generator[None]:
    """Draw the CPU's random numbers from a stream seeded by the parts alone; no stream outside moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix_seed(*parts))  # torch.manual_seed would move a GPU's stream
        yield


def mix_seed(*parts: int) -> int:
    """Combine integers into one seed; nearby parts give unrelated seeds."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & 0x7FFFFFFFFFFFFFFF


def couples_batch(model: nn.Module) -> bool:
    """Return whether batch norm, in its present modes, makes an example's output depend on the rest of its batch."""
    return any(
        isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
        for module in model.modules()
    )


def all_in_eval_mode(model: nn.Module) -> bool:
    """Return whether a model has batch norm or dropout, all of it in eval mode."""
    layers = [
        module
        for module in model.modules()
        if (isinstance(module, _BatchNorm) and module.track_running_stats)
        or (isinstance(module, _DropoutNd) and module.p > 0)
    ]
    return bool(layers) and not any(module.training for module in layers)


class RandomState:
    """The present state of the random streams, to draw the same numbers again: dropout then drops the same units.

    Args:
        device: Device whose stream is saved together with the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = [(device, torch.cuda.get_rng_state(device))] if device.type == "cuda" else []

    @contextmanager
    def again(self) -> Generator[None]:
        """Draw the same numbers inside; the streams outside do not move."""
        with torch.random.fork_rng(devices=[device for device, _ in self._cuda]):
            torch.set_rng_state(self._cpu)
            for device, state in self._cuda:
                torch.cuda.set_rng_state(state, device)
            yield
