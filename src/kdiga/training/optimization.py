"""Optimiser and learning-rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from kdiga.errors import InputError
from kdiga.models.layer_depths import layers_of
from kdiga.training.settings import TrainingSettings


def build_optimizer(models: Sequence[nn.Module], settings: TrainingSettings) -> Optimizer:
    """Return the optimiser of all parameters that require a gradient."""
    groups = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in parameter_groups(models, settings).items()
    ]
    if not groups:
        raise InputError(
            "no parameter of the student requires a gradient, so there is nothing to train; call "
            "student.requires_grad_(True), or freeze fewer parameters."
        )
    # On CUDA a step takes one kernel in place of several; None leaves the choice to PyTorch.
    fused = all(parameter.is_cuda for model in models for parameter in model.parameters()) or None
    if settings.optimizer == "adamw":
        return AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    return SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=fused)


def parameter_groups(
    models: Sequence[nn.Module], settings: TrainingSettings
) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Return the parameters by peak learning rate and weight decay, the highest rate first.

    With ``layer_decay`` d a parameter of layer l of 0, ..., L has the rate ``lr * d**(L - l)`` (Clark et al.,
    2020, ELECTRA; Bao et al., 2021, BEiT): the layers near the images have general features and change least.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for place, model in enumerate(models):
        layers = layers_of(model) if place == 0 and settings.layer_decay != 1 else {}
        last = max(layers.values(), default=0)
        spared = set[str]() if settings.decay_norms_and_biases else _never_decayed(model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = settings.lr * settings.layer_decay ** (last - layers.get(name, last))
                decay = 0.0 if name in spared else settings.weight_decay
                groups.setdefault((rate, decay), []).append(parameter)
    return {key: groups[key] for key in sorted(groups, reverse=True)}


def _never_decayed(model: nn.Module) -> set[str]:
    """Return the names of norms, of biases, and of the parameters that a timm network lists, such as embeddings."""
    listed = {
        f"{above}.{name}" if above else name
        for above, module in model.named_modules()
        for name in cast("Any", getattr(module, "no_weight_decay", tuple))()
    }
    return {name for name, parameter in model.named_parameters() if parameter.dim() < 2 or name in listed}


def build_schedule(optimizer: Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler:
    """Return the schedule over all ``steps`` of the run; step it after every optimiser step."""
    if settings.schedule == "one-cycle":
        # One step more: the schedule raises an error after its last value.
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, total_steps=steps + 1, cycle_momentum=False)
    if settings.warmup:
        return LambdaLR(optimizer, partial(_warmed_up_factor, settings, steps))
    if settings.schedule == "multi-step":
        return MultiStepLR(optimizer, [round(share * steps) for share in settings.milestones], gamma=0.1)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LambdaLR(optimizer, lambda step: 1.0)


def _warmed_up_factor(settings: TrainingSettings, steps: int, step: int) -> float:
    """Return the factor of the peak rate at a step: a linear rise, then the schedule; milestones are of all steps."""
    rise = max(1, round(settings.warmup * steps))
    if step < rise:
        return (step + 1) / (rise + 1)
    if settings.schedule == "multi-step":
        return 0.1 ** sum(step >= round(share * steps) for share in settings.milestones)
    if settings.schedule == "cosine":
        return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2
    return 1.0


def clip_gradient(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Scale the parameter gradient down to norm ``largest``; 0 leaves it."""
    if largest > 0:
        torch.nn.utils.clip_grad_norm_(parameters, largest)
