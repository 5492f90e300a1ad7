"""The geometry of a threat model: start in the ball, step in it, project onto it."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga.distributed import batch_shards
from kdiga.types import ThreatModel


def steepest(direction: Tensor, threat: ThreatModel) -> Tensor:
    """Return the perturbation of length ``eps`` with the largest inner product with ``direction``.

    Its inner product is ``eps`` times the dual norm of ``direction``: ``eps * sign`` for Linf,
    ``eps * direction / ||direction||_2`` for L2. Shapes: (batch, channel, height, width).
    """
    return threat.eps * unit(direction, threat)


def unit(direction: Tensor, threat: ThreatModel) -> Tensor:
    """Return a step of length 1 in the threat model's norm along ``direction``; zero stays zero."""
    if threat.norm == "linf":
        return direction.sign()
    length = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction / _per_example(length, direction)


def project(adv_images: Tensor, images: Tensor, threat: ThreatModel) -> Tensor:
    """Return the nearest images within ``eps`` of ``images``, then clipped to [0, 1].

    For ``images`` in [0, 1] clipping only moves each pixel towards its original, so the result
    stays in the ball.
    """
    delta = adv_images - images
    if threat.norm == "linf":
        delta = delta.clamp(-threat.eps, threat.eps)
    else:
        length = delta.flatten(1).norm(dim=1).clamp_min(torch.finfo(delta.dtype).tiny)
        delta = delta * _per_example((threat.eps / length).clamp(max=1), delta)
    return (images + delta).clamp(0, 1)


def within(candidates: Tensor, images: Tensor, threat: ThreatModel) -> Tensor:
    """Return whether candidates are in the balls around images, up to rounding, bool (batch,)."""
    order = torch.inf if threat.norm == "linf" else 2
    distance = torch.linalg.vector_norm((candidates - images).flatten(1).double(), ord=order, dim=1)
    return distance <= threat.eps * (1 + 1e-4) + 1e-6


def uniform_start(images: Tensor, threat: ThreatModel) -> Tensor:
    """Return images drawn uniformly from the ball, clipped to [0, 1]."""
    if threat.norm == "linf":
        delta = batch_shards.current_shard().uniform(images, -threat.eps, threat.eps)
    else:
        delta = unit(batch_shards.current_shard().normal(images), threat)
        fraction = batch_shards.current_shard().uniform(images[:, 0, 0, 0]) ** (1 / images[0].numel())
        delta = delta * _per_example(threat.eps * fraction, delta)
    return (images + delta).clamp(0, 1)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
