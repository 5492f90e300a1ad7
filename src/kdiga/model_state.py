"""Run a model in another mode and leave it exactly as it was found."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]


def device_of(model: nn.Module, otherwise: torch.device | None = None) -> torch.device:
    """Return where a model's parameters are; for one that has none ``otherwise``, by default the CPU."""
    return next((parameter.device for parameter in model.parameters()), otherwise or torch.device("cpu"))


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put every submodule in eval mode, and each back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen_statistics(model: nn.Module) -> Generator[None]:
    """Leave batch norm's running statistics as they were, whatever runs inside."""
    saved = [
        (buffer, buffer.detach().clone())
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for buffer, value in saved:
            # .data: no version bump, so a backward that is still pending stays valid.
            buffer.data.copy_(value)


@contextmanager
def batch_statistics(model: nn.Module) -> Generator[None]:
    """Normalise by the batch's own statistics, as in train mode, without a trace in the running ones."""
    with frozen_statistics(model):
        yield


@contextmanager
def frozen_parameters(model: nn.Module) -> Generator[None]:
    """Let no gradient reach the parameters: attacks need none, and some accumulate them if they can."""
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
    """Draw random numbers from a stream that the parts alone decide; the caller's streams go on as before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mix_seed(*parts))
        yield


def mix_seed(*parts: int) -> int:
    """Combine integers into one seed; nearby parts give unrelated seeds."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & 0x7FFFFFFFFFFFFFFF


def couples_batch(model: nn.Module) -> bool:
    """Return whether batch norm makes an example's output depend on the batch it is in, in the present modes."""
    return any(
        isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
        for module in model.modules()
    )


def all_in_eval_mode(model: nn.Module) -> bool:
    """Return whether a model has batch norm or dropout, and all of it is in eval mode."""
    layers = [
        module
        for module in model.modules()
        if (isinstance(module, _BatchNorm) and module.track_running_stats)
        or (isinstance(module, _DropoutNd) and module.p > 0)
    ]
    return bool(layers) and not any(module.training for module in layers)


class RandomState:
    """The random streams as they stand now, to be drawn from again: dropout then drops the same units.

    Args:
        device: whose stream is kept beside the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = [(device, torch.cuda.get_rng_state(device))] if device.type == "cuda" else []

    @contextmanager
    def again(self) -> Generator[None]:
        """Draw the same numbers inside; the streams go on outside as if nothing had happened."""
        with torch.random.fork_rng(devices=[device for device, _ in self._cuda]):
            torch.set_rng_state(self._cpu)
            for device, state in self._cuda:
                torch.cuda.set_rng_state(state, device)
            yield
