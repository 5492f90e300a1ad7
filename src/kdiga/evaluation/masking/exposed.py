"""A model as the checks run it: one without a gradient, or with one of NaN, must not stop an attack with an error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError


class Exposed(nn.Module):
    """Answers as the model does, and always has an input gradient: zero where the model gives none or one of NaN.

    Args:
        model: maps images to logits; in eval mode, its parameters frozen.
        role: what messages call it.
    """

    def __init__(self, model: nn.Module, role: str = "model") -> None:
        super().__init__()
        self.model, self.role = model, role
        self.training = False  # of this wrapper alone

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Raises:
            InputError: where they are not finite.
        """
        return self.untouched(_Repaired.apply(images))

    def untouched(self, images: Tensor) -> Tensor:
        """Return logits whose gradient is the model's own, NaN included; zero where there is none.

        Raises:
            InputError: where the logits are not finite.
        """
        logits: Tensor = self.model(images)
        if not bool(logits.isfinite().all()):
            raise InputError(
                f"the {self.role} returned logits that are not finite for images in [0, 1] near the given ones; "
                "its weights are damaged or diverged."
            )
        if images.requires_grad:
            logits = logits + 0 * images.flatten(1).sum(1, keepdim=True).to(logits.dtype)
        return logits


class _Repaired(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.nan_to_num(0.0, 0.0, 0.0).contiguous()
