"""Radii that are proved: interval bounds of a network's margins, and of the Lipschitz constants of its margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.certificate import as_numbers, certified_accuracy, curve_of, share
from kdiga.certification.class_scores import class_scores
from kdiga.certification.interval_network import Network, take_apart
from kdiga.certification.interval_propagation import Box, ball_of, dual_norms, gradients, margins, reach
from kdiga.errors import InputError
from kdiga.model_state import device_of, evaluating
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel

PORTION = 20  # examples that are kept together
HALVINGS = 20  # of the range that holds a radius: what is left is a millionth of it


@dataclass(frozen=True)
class IntervalBounds:
    """Proved radii of one model.

    Args:
        threat: norm and eps.
        max_radius: no larger one was tried.
        radius: one an example; 0.0 where the model is wrong or nothing is proved.
        proved: for each example, whether its label cannot change within eps.
        correct: for each example, whether the model is right.
    """

    threat: ThreatModel
    max_radius: float
    radius: Sequence[float]
    proved: tuple[bool, ...]
    correct: tuple[bool, ...]

    @property
    def wrong(self) -> int:
        """How many examples are misclassified."""
        return self.correct.count(False)

    def accuracy(self, radius: float) -> float:
        """Return the share of all examples that are right with a proved radius of at least ``radius``."""
        return certified_accuracy(self.radius, radius)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        accuracy, interval = share(self.proved)
        return {
            "norm": self.threat.norm,
            "max_radius": self.max_radius,
            "radius": as_numbers(self.radius),
            "accuracy": accuracy,
            "interval_95": interval,
            "wrong": self.wrong,
            "curve": curve_of(self.radius, self.max_radius),
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

    A radius is proved if interval bounds of every margin ``f_c - f_j`` over the ball, intersected with [0, 1], are
    above 0; the largest such radius is found by bisection. What is proved speaks of the network as a function of real
    numbers with the stored weights: the bounds are widened by more than their own rounding, in float64, but the
    rounding of a float32 forward pass is not part of it.

    Args:
        model: convolutions, linear layers, ReLU, average pooling, batch norm, flatten and sums of branches, ending in a
            linear layer; left as found.
        images: float (example, channel, height, width), pixels in [0, 1].
        labels: int (example,).
        norm: "linf" or "l2".
        eps: at which certified accuracy is asked for, in pixels in [0, 1].
        max_radius: largest radius tried; None is eps.
        folder: where finished portions are kept and shared between processes; None keeps none.
        progress: called with "interval", examples done and examples to do.
        role: what messages call the model.

    Raises:
        InputError: for a layer without bounds, by name, settings out of range, and as
            :func:`kdiga.certification.class_scores.class_scores`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]])), model[1].bias.zero_()
    >>> image = torch.tensor([0.5, 0.5, 0.5, 0.4]).view(1, 1, 2, 2)  # a margin of 0.1, a slope of 2
    >>> [round(radius, 3) for radius in interval_bounds(model, image, torch.tensor([0]), eps=0.1).radius]
    [0.05]
    """
    threat = ThreatModel.parse(norm, eps)
    tried = threat if max_radius is None else ThreatModel.parse(norm, max_radius)
    if not tried.eps > 0:
        raise InputError(f"the largest radius was {tried.eps:g}; it must be above 0, in pixels in [0, 1].")
    device = device_of(model, images.device)
    images, labels = images.to(device), labels.to(device).long()
    with evaluating(model):
        class_scores(model, images, labels)
        network = take_apart(model, images[0], role)
        fingerprint = fingerprint_of_model(model) if folder is not None else ""
    work_units: list[WorkUnit] = []
    for part, answers in zip(images.split(PORTION), labels.split(PORTION), strict=True):
        key = {
            "certification": "interval",
            "model": fingerprint,
            "examples": fingerprint_of_tensors(part, answers),
            "threat": [threat.norm, threat.eps],
            "max_radius": tried.eps,
            "halvings": HALVINGS,
        }
        work = partial(_work, network, part.double(), answers, threat, tried.eps)
        work_units.append(WorkUnit("interval", key, len(part), work))
    rows = [row for chunk in run_work_units(work_units, ResultCache(folder), progress) for row in chunk]
    radius, proved, right = zip(*rows, strict=True)
    return IntervalBounds(threat, tried.eps, radius, tuple(map(bool, proved)), tuple(map(bool, right)))


@torch.no_grad()
def _work(
    network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, most: float
) -> list[tuple[float, bool, bool]]:
    """Return for each example its radius, whether it is proved at eps, and whether the model is right."""
    holds = partial(_holds, network, images, labels, threat.norm)
    low, high = torch.zeros(len(images), dtype=torch.float64, device=images.device), ball_of(threat, images)
    right, proved = holds(low), holds(high)
    high = torch.full_like(low, most)
    whole = holds(high)
    low = torch.where(whole, high, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        held = holds(middle)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    # Bisection may stop a hair below an eps at which the proof was had.
    radius = torch.where(proved & (threat.eps <= most), low.clamp_min(threat.eps), low)
    return list(zip(radius.tolist(), proved.tolist(), right.tolist(), strict=True))


def _holds(network: Network, images: Tensor, labels: Tensor, norm: str, radius: Tensor) -> Tensor:
    return (margins(network, reach(network, images, radius, norm), labels) > 0).all(1)


@torch.no_grad()
def gradient_bounds(model: nn.Module, images: Tensor, labels: Tensor, *, ball: ThreatModel) -> tuple[Tensor, Tensor]:
    """Return proved bounds of the input gradients of margins over a ball: what no gradient in it leaves.

    Args:
        model: as for :func:`interval_bounds`, in any mode; left as found.
        images: float (example, channel, height, width), pixels in [0, 1].
        labels: int64 (example,), the classes c.
        ball: norm, and radius as eps; intersected with [0, 1].

    Returns:
        Lowest and highest values, float64 (example, num_classes - 1, channel, height, width), of
        ``grad (f_c - f_j)``, classes in the order of :func:`kdiga.certification.class_scores.other_classes`.
    """
    network = take_apart(model, images[0])
    images = images.double()
    box = gradients(network, reach(network, images, ball_of(ball, images), ball.norm), labels.long())
    shape = len(images), len(network.weight) - 1, *images.shape[1:]
    return (box.center - box.radius).view(shape), (box.center + box.radius).view(shape)


@torch.no_grad()
def lipschitz_bounds(
    student: Network, teacher: Network, images: Tensor, labels: Tensor, ball: ThreatModel
) -> tuple[Tensor, Tensor, Tensor]:
    """Return proved upper bounds of Lipschitz constants over a ball, each float64 (example, num_classes - 1).

    Args:
        student: taken apart.
        teacher: taken apart.
        images: float64 (example, channel, height, width), pixels in [0, 1].
        labels: int64 (example,), the classes c.
        ball: norm, and radius as eps; intersected with [0, 1].

    Returns:
        ``max ||grad (f_c - f_j)||_q`` of the student, of the teacher, and of the difference of the two gradients.
    """
    shape = len(images), len(student.weight) - 1
    boxes = [
        gradients(network, reach(network, images, ball_of(ball, images), ball.norm), labels)
        for network in (student, teacher)
    ]
    gap = Box(boxes[0].center - boxes[1].center, boxes[0].radius + boxes[1].radius)
    # The rounding of the difference is relative to its size, as the allowance of a norm is, and smaller.
    return tuple(dual_norms(box, ball.norm).view(shape) for box in (*boxes, gap))  # pyright: ignore[reportReturnType]
