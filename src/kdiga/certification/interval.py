"""Proved radii: interval bounds of the margins of a network, and of the Lipschitz constants of its margins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.certificate import Certificate, Radii, accuracy_curve, share
from kdiga.certification.class_scores import class_scores
from kdiga.certification.interval_network import TracedNetwork, trace_network
from kdiga.certification.interval_propagation import (
    IntervalTensor,
    bound_gradients,
    bound_margins,
    bound_values,
    largest_dual_norms,
)
from kdiga.errors import InputError
from kdiga.model_state import device_of, evaluating
from kdiga.runs.chunks import Chunk, run_chunks, split_chunks
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel, refuse_l1

CHUNK_SIZE = 20  # examples per work unit
HALVINGS = 20  # bisection steps: the remaining range is a millionth of the first


@dataclass(frozen=True)
class IntervalBounds(Certificate):
    """Proved radii of one model."""

    threat: ThreatModel  # norm and eps
    max_radius: float  # largest radius that was tried
    radius: Radii  # radius of each example; 0.0 for a wrong answer or without a proof
    proved: tuple[bool, ...]  # whether the label of each example cannot change within eps
    correct: tuple[bool, ...]  # whether each example is classified correctly

    @property
    def wrong(self) -> int:
        """Number of misclassified examples."""
        return self.correct.count(False)

    def to_dict(self) -> dict[str, Any]:
        """Return all results as plain data."""
        accuracy, interval = share(self.proved)
        return {
            "norm": self.threat.norm,
            "max_radius": self.max_radius,
            "radius": list(self.radius),
            "accuracy": accuracy,
            "interval_95": interval,
            "wrong": self.wrong,
            "curve": accuracy_curve(self.radius, self.max_radius),
        }


def interval_bounds(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    max_radius: float | str | None = None,
    folder: Path | None = None,
    progress: OnProgress | None = None,
    role: str = "model",
) -> IntervalBounds:
    """Prove for each example a radius within which its label cannot change.

    A radius is proved if the interval bounds of all margins ``f_c - f_j`` over the ball, intersected with [0, 1], are
    above 0; bisection finds the largest such radius. The proof is about the network as a function of real numbers with
    the stored weights: the float64 bounds are widened by more than their own rounding, but the rounding of a float32
    forward pass is not covered.

    Args:
        model: A network of convolutions, linear layers, ReLU, average pooling, batch norm, flatten and sums of
            branches that ends in a linear layer; its modes and parameters do not change.
        images: Float (example, channel, height, width), pixels in [0, 1].
        labels: Int (example,).
        norm: "linf" or "l2".
        eps: Radius of the certified accuracy, in pixels in [0, 1].
        max_radius: Largest radius to try; None is eps.
        folder: Folder of finished work units, which several processes can share; None saves nothing.
        progress: Called with "interval", the finished and the total number of examples.
        role: Name of the model in error messages.

    Raises:
        InputError: If a layer has no bounds (the message names it), a setting is out of range, or as
            :func:`kdiga.certification.class_scores.class_scores`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]])), model[1].bias.zero_()
    >>> image = torch.tensor([0.5, 0.5, 0.5, 0.4]).view(1, 1, 2, 2)  # a margin of 0.1, a slope of 2
    >>> [round(radius, 3) for radius in interval_bounds(model, image, torch.tensor([0]), eps=0.1).radius]
    [0.05]
    """
    threat = refuse_l1(ThreatModel.parse(norm, eps), "a certificate")
    largest = (threat if max_radius is None else ThreatModel.parse(norm, max_radius)).eps
    if not largest > 0:
        raise InputError(f"the largest radius was {largest:g}; it must be above 0, in pixels in [0, 1].")
    device = device_of(model, images.device)
    images, labels = images.to(device), labels.to(device).long()
    with evaluating(model):
        class_scores(model, images, labels)
        network = trace_network(model, images[0], role)
        fingerprint = fingerprint_of_model(model, images) if folder is not None else ""
    about = {
        "certification": "interval",
        "model": fingerprint,
        "threat": [threat.norm, threat.eps],
        "max_radius": largest,
        "halvings": HALVINGS,
    }
    work = partial(_certify, network, threat, largest)
    chunks = split_chunks(images, labels, CHUNK_SIZE)
    job = lambda chunk: about | {"examples": chunk.fingerprint}, work
    (outcomes,) = run_chunks("interval", chunks, [job], ResultCache(folder), progress)
    radius, proved, correct = zip(*(row for outcome in outcomes for row in outcome), strict=True)
    return IntervalBounds(threat, largest, radius, tuple(map(bool, proved)), tuple(map(bool, correct)))


@torch.no_grad()
def _certify(
    network: TracedNetwork, threat: ThreatModel, largest: float, chunk: Chunk
) -> list[tuple[float, bool, bool]]:
    """Return the radius of each example, whether it is proved at eps, and whether the model is right."""
    images = chunk.images.double()

    def holds(radius: Tensor) -> Tensor:
        values = bound_values(network, images, radius, threat.norm)
        return (bound_margins(network, values, chunk.labels) > 0).all(1)

    low = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    correct, proved = holds(low), holds(torch.full_like(low, threat.eps))
    high = torch.full_like(low, largest)
    low = torch.where(holds(high), high, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        held = holds(middle)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    # Bisection may stop slightly below an eps that is proved.
    radius = torch.where(proved & (threat.eps <= largest), low.clamp_min(threat.eps), low)
    return list(zip(radius.tolist(), proved.tolist(), correct.tolist(), strict=True))


@torch.no_grad()
def lipschitz_bounds(
    student: TracedNetwork, teacher: TracedNetwork, images: Tensor, labels: Tensor, ball: ThreatModel
) -> tuple[Tensor, Tensor, Tensor]:
    """Return proved upper bounds of Lipschitz constants over a ball, each float64 (example, num_classes - 1).

    They are ``max ||grad (f_c - f_j)||_q`` of the student, of the teacher, and of the difference of their gradients.
    The images are float64; the ball is intersected with [0, 1].
    """
    own, reference = (_gradients(network, images, labels, ball) for network in (student, teacher))
    difference = IntervalTensor(own.center - reference.center, own.radius + reference.radius)
    # The rounding of the difference is relative to its size and below the allowance of the norm.
    shape = len(images), len(student.weight) - 1
    first, second, third = (
        largest_dual_norms(bounds, ball.norm).view(shape) for bounds in (own, reference, difference)
    )
    return first, second, third


def _gradients(network: TracedNetwork, images: Tensor, labels: Tensor, ball: ThreatModel) -> IntervalTensor:
    radius = torch.full((len(images),), ball.eps, dtype=torch.float64, device=images.device)
    return bound_gradients(network, bound_values(network, images, radius, ball.norm), labels)
