"""Optimiser and learning-rate schedule, both PyTorch's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from kdiga.training.settings import TrainingSettings


def build_optimizer(parameters: Sequence[nn.Parameter], settings: TrainingSettings) -> Optimizer:
    """Return the optimiser of these parameters."""
    if settings.optimizer == "adamw":
        return AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    return SGD(parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def build_schedule(optimizer: Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler:
    """Return the schedule over all ``steps`` of the run; step it after every optimiser step."""
    if settings.schedule == "one-cycle":
        # One step beyond the end: the schedule refuses to be asked after its last value.
        return OneCycleLR(optimizer, settings.lr, total_steps=steps + 1, cycle_momentum=False)
    if settings.schedule == "multi-step":
        return MultiStepLR(optimizer, [round(share * steps) for share in settings.milestones], gamma=0.1)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LambdaLR(optimizer, lambda step: 1.0)


def clip(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Scale the parameter gradient down to norm ``largest``; 0 leaves it."""
    if largest > 0:
        torch.nn.utils.clip_grad_norm_(parameters, largest)
