"""Accuracy against eps: the curve that shows where robustness ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdiga.evaluation.evaluate import evaluate


def sweep(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps_values: Sequence[float],
    norm: str = "linf",
    attack: str = "pgd-20",
    seed: int = 0,
) -> list[float]:
    """Return the accuracy at each eps under one attack; eps 0 is the clean accuracy.

    An example that falls at one eps counts as fallen at every larger one, where the same attack may
    have missed: the true curve never rises.

    Args:
        model: maps images to logits.
        images: float (batch, channel, height, width), pixels in [0, 1].
        labels: int (batch,).
        eps_values: rising, from 0.
        norm: "linf" or "l2".
        attack: as in :func:`kdiga.evaluate`.
        seed: of random starts.
    """
    standing = torch.ones(len(labels), dtype=torch.bool)
    curve = list[float]()
    for eps in eps_values:
        name = "clean" if eps == 0 else attack
        report = evaluate(model, [(images, labels)], eps=eps, norm=norm, attacks=[name], seed=seed)
        standing &= torch.tensor(report.results[name].correct)
        curve.append(float(standing.float().mean()))
    return curve
