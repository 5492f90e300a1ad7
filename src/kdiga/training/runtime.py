"""Device, precision and memory layout of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.distributed.process_group import device_of_process
from kdiga.errors import InputError
from kdiga.gradients.student_pass import Forward
from kdiga.training.settings import TrainingSettings


class Runtime:
    """Device, precision and memory layout of one run.

    Accelerate finds the device of each of several processes. Autocast does not come from it: that would patch the
    student's ``forward``, and teacher, attacks and alignment must run in the same precision. Nor do backward passes:
    they would obey its configuration, which may divide or scale the loss.

    Raises:
        InputError: If the device does not exist.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.device = device_of_process(device_by_name(settings.device))
        self.precision = settings.precision
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.compile = settings.compile

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and layout."""
        return model.to(device=self.device, memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]

    def images(self, images: Tensor) -> Tensor:
        """Return images on the device, in the layout."""
        return images.to(device=self.device, memory_format=self.memory_format)

    def compiled(self, model: object) -> Forward | None:
        """Return a module's forward, compiled on first use; None if the run does not compile."""
        if not self.compile or not isinstance(model, nn.Module):
            return None
        return torch.compile(model.forward, dynamic=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for the computation of losses."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def device_by_name(name: str) -> torch.device:
    """Return the device of "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        InputError: If the name is another, or there is no GPU for "cuda".
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device was {name!r}; accepted: auto, cpu, cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device was 'cuda' and PyTorch sees no CUDA GPU here; use auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
