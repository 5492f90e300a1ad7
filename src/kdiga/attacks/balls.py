"""The geometry of a threat model: start in the ball, step in it, project onto it."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga.distributed import batch_shards
from kdiga.types import ThreatModel


def steepest(direction: Tensor, threat: ThreatModel) -> Tensor:
    """Return the perturbation of length ``eps`` with the largest inner product with ``direction``.

    Its inner product is ``eps`` times the dual norm of ``direction``: ``eps * sign`` for Linf,
    ``eps * direction / ||direction||_2`` for L2, ``eps * sign`` of the largest pixel for L1. Shapes: (batch, channel,
    height, width).
    """
    return threat.eps * unit(direction, threat)


def unit(direction: Tensor, threat: ThreatModel) -> Tensor:
    """Return a step of length 1 in the threat model's norm along ``direction``; zero stays zero."""
    if threat.norm == "linf":
        return direction.sign()
    if threat.norm == "l1":
        largest = direction.flatten(1).abs().argmax(1, keepdim=True)
        return torch.zeros_like(direction.flatten(1)).scatter(1, largest, 1).view_as(direction) * direction.sign()
    length = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction / _per_example(length, direction)


def ascend(adv_images: Tensor, gradient: Tensor, step_size: float, threat: ThreatModel) -> Tensor:
    """Return images after a step of length ``step_size`` along the gradient, in the threat model's norm.

    In L1 the step goes to the pixels with the largest derivatives, up to the end of their range, each by at most the
    ``step_size`` over 1 % of the pixels (Tramer and Boneh, 2019, SLIDE).
    """
    if threat.norm != "l1":
        return adv_images + step_size * unit(gradient, threat)
    room = torch.where(gradient > 0, 1 - adv_images, adv_images).flatten(1)
    order = gradient.flatten(1).abs().argsort(1, descending=True)
    room = room.clamp(0, step_size / max(1, room.shape[1] // 100)).gather(1, order)
    taken = torch.minimum(room, (step_size - room.cumsum(1) + room).clamp_min(0))
    return adv_images + torch.zeros_like(room).scatter(1, order, taken).view_as(gradient) * gradient.sign()


def project(adv_images: Tensor, images: Tensor, threat: ThreatModel) -> Tensor:
    """Return the nearest images within ``eps`` of ``images``, then clipped to [0, 1].

    For ``images`` in [0, 1] clipping only moves each pixel towards its original, so the result
    stays in the ball. In L1 the result is the nearest image in the ball and in [0, 1] (Croce and Hein, 2021).
    """
    delta = adv_images - images
    if threat.norm == "l1":
        from pyautoattack.autopgd_base import L1_projection  # here, because it loads slowly

        delta = delta + L1_projection(images, delta, threat.eps).to(delta.dtype)
        return (images + delta).clamp(0, 1)
    if threat.norm == "linf":
        delta = delta.clamp(-threat.eps, threat.eps)
    else:
        length = delta.flatten(1).norm(dim=1).clamp_min(torch.finfo(delta.dtype).tiny)
        delta = delta * _per_example((threat.eps / length).clamp(max=1), delta)
    return (images + delta).clamp(0, 1)


def within(candidates: Tensor, images: Tensor, threat: ThreatModel) -> Tensor:
    """Return whether candidates are in the balls around images, up to rounding, bool (batch,)."""
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[threat.norm]
    distance = torch.linalg.vector_norm((candidates - images).flatten(1).double(), ord=order, dim=1)
    return distance <= threat.eps * (1 + 1e-4) + 1e-6


def uniform_start(images: Tensor, threat: ThreatModel) -> Tensor:
    """Return images drawn uniformly from the ball, clipped to [0, 1]."""
    if threat.norm == "linf":
        delta = batch_shards.current_shard().uniform(images, -threat.eps, threat.eps)
    elif threat.norm == "l1":
        draws, rest = (
            -torch.log1p(-batch_shards.current_shard().uniform(like)) for like in (images, images[:, 0, 0, 0])
        )
        share = draws / _per_example(draws.flatten(1).sum(1) + rest, draws)
        delta = threat.eps * share * batch_shards.current_shard().normal(images).sign()
    else:
        delta = unit(batch_shards.current_shard().normal(images), threat)
        fraction = batch_shards.current_shard().uniform(images[:, 0, 0, 0]) ** (1 / images[0].numel())
        delta = delta * _per_example(threat.eps * fraction, delta)
    return (images + delta).clamp(0, 1)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
