"""Averages of a model's weights over the steps, and of batch norm's statistics over processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

WARM_UP_POWER = 2 / 3


def moving_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """Return the exponential moving average of a model's parameters and buffers; None for a decay of 0.

    After step ``n``, from 1, ``average += (1 - d) * (model - average)`` with
    ``d = min(decay, 1 - n**(-2/3))``: the first step is taken over whole and early weights are forgotten soon.

    Args:
        model: to be averaged; the average is a copy of it, in eval mode.
        decay: in [0, 1).
    """
    if not decay:
        return None
    return ModelEmaV3(model, decay=decay, use_warmup=True, warmup_power=WARM_UP_POWER, foreach=True)


def running_statistics(models: Sequence[nn.Module | None]) -> list[Tensor]:
    """Return batch norm's running means and variances, of all models in order."""
    return [
        buffer
        for model in models
        if model is not None
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if isinstance(buffer, torch.Tensor)
    ]
