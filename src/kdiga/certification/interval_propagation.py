"""Interval bounds carried through a network: forwards for values, backwards for input gradients.

Gowal et al. (2018, arXiv 1810.12715) carry a box forwards by its centre and radius, ``A c + b`` and ``|A| r``; a ReLU
takes both ends of the interval. Backwards the same is done with the transposes, and the slope of a ReLU is 1 where its
input is surely above 0, 0 where it is surely below, and anything in [0, 1] elsewhere.

Everything is computed in float64, and every radius is widened by more than the rounding of the step: a sum of ``n``
products is off by at most ``(n + 2) u`` of the sum of their sizes, ``u`` the unit of rounding, in whatever order it is
added up (Higham, 2002, section 3.1); here ``2 (n + 8) u`` is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiga.certification.class_scores import other_classes
from kdiga.certification.interval_layers import by_channel
from kdiga.certification.interval_network import AffineLayer, Network
from kdiga.types import ThreatModel

UNIT = 2.0**-52  # twice the unit of rounding of float64


@dataclass(frozen=True)
class Box:
    """Intervals ``center - radius`` to ``center + radius``, float64, any shape with the examples first."""

    center: Tensor
    radius: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> Box:
        """Return the box of two ends."""
        return cls((low + high) / 2, (high - low).clamp_min(0) / 2 + 2 * UNIT * (low.abs() + high.abs()))

    @property
    def size(self) -> Tensor:
        """The largest absolute value in each interval."""
        return self.center.abs() + self.radius


@dataclass(frozen=True)
class GradientBounds:
    """Values ``center + weight * z``, elementwise, where z lies in an L2 ball of each example's own radius."""

    center: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Reached:
    """What a network's values may be while the images stay in their balls.

    Args:
        boxes: of every value, the images first.
        spread: the last value in terms of an L2 ball, where only rescaling lies between; else None.
        radius: float64 (example,), of the balls.
    """

    boxes: Sequence[Box]
    spread: GradientBounds | None
    radius: Tensor


def reach(network: Network, images: Tensor, radius: Tensor, norm: str) -> Reached:
    """Return bounds of every value.

    Args:
        network: taken apart.
        images: float64 (example, channel, height, width), pixels in [0, 1].
        radius: float64 (example,), in the norm.
        norm: "linf" or "l2" of the balls, each intersected with [0, 1]. An L2 ball is used as one up to the first layer
            that mixes pixels, by the length of its rows; from there on it is a box.
    """
    reaching = by_example(radius, images)
    boxes = [Box.between((images - reaching).clamp_min(0), (images + reaching).clamp_max(1))]
    spreads: list[GradientBounds | None] = [GradientBounds(images, torch.ones_like(images)) if norm == "l2" else None]
    for step in network.steps:
        sources = [boxes[source] for source in step.sources]
        spread = spreads[step.sources[0]] if len(step.sources) == 1 else None
        if step.magnitude is None:
            boxes.append(_relu(sources[0]))
            spreads.append(None)
            continue
        box = _affine(step, sources)
        passed = None
        if spread is not None and step.diagonal:
            passed = GradientBounds(step.apply(spread.center), step.magnitude(spread.weight))
        elif spread is not None:
            box = _meet(box, _rows(step, spread, radius))
        boxes.append(box)
        spreads.append(passed)
    return Reached(boxes, spreads[-1], radius)


def margins(network: Network, reached: Reached, labels: Tensor) -> Tensor:
    """Return lower bounds of ``f_c - f_j``, float64 (example, num_classes - 1), classes as in :func:`other_classes`.

    The last layer's rows are subtracted first: its own margin is bounded, not two logits by themselves.
    """
    last = reached.boxes[-1]
    others = other_classes(labels, len(network.weight))
    found = torch.empty_like(others, dtype=torch.float64)
    for label in labels.unique():
        rows = labels == label
        weight, bias, offset = _differences(network, label, others[rows][0])
        slack = allowance(weight.shape[1])
        center, radius = last.center[rows], last.radius[rows]
        size = center.abs() @ weight.abs().T + offset
        low = center @ weight.T + bias - (radius @ weight.abs().T) * (1 + slack) - slack * size
        if reached.spread is not None:
            at, scale = reached.spread.center[rows], reached.spread.weight[rows]
            length = (scale.square() @ weight.square().T).sqrt() * reached.radius[rows, None] * (1 + slack)
            size = at.abs() @ weight.abs().T + offset
            low = low.maximum(at @ weight.T + bias - length - slack * size)
        found[rows] = low
    return found


def gradients(network: Network, reached: Reached, labels: Tensor) -> Box:
    """Return bounds of the input gradients of ``f_c - f_j`` anywhere in the balls.

    Where a ReLU has no derivative, any slope between its two is covered.

    Returns:
        Box: (example * (num_classes - 1), channel, height, width), the classes of an example together.
    """
    classes = len(network.weight) - 1
    others = other_classes(labels, classes + 1)
    weight = network.weight[labels][:, None] - network.weight[others]
    last = reached.boxes[-1].center
    start = weight.reshape(len(labels) * classes, *last.shape[1:])
    held: list[Box | None] = [None] * len(network.steps) + [Box(start, 2 * UNIT * start.abs())]
    for place in reversed(range(len(network.steps))):
        step, outgoing = network.steps[place], held[place + 1]
        if outgoing is None:
            continue
        sources = [reached.boxes[source] for source in step.sources]
        if step.magnitude is None:
            passed = [_relu_slopes(outgoing, sources[0], classes)]
        else:
            passed = _transposed(step, sources, outgoing, classes)
        for source, box in zip(step.sources, passed, strict=True):
            held[source] = _sum(held[source], box)
    found = held[0]
    if found is None:
        found = Box(*(torch.zeros(len(start), *reached.boxes[0].center.shape[1:]).to(start) for _ in range(2)))
    return found


def dual_norms(box: Box, norm: str) -> Tensor:
    """Return the largest dual norm in each row of a box of gradients, float64 (row,)."""
    size = box.size.flatten(1)
    length = size.sum(1) if norm == "linf" else torch.linalg.vector_norm(size, dim=1)
    return length * (1 + allowance(size.shape[1]))


def allowance(terms: int) -> float:
    """Return by how much of its size a sum of so many products is widened."""
    return (terms + 8) * UNIT


def by_example(values: Tensor, like: Tensor) -> Tensor:
    """Return one value an example in a shape that goes with images."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def ball_of(threat: ThreatModel, images: Tensor) -> Tensor:
    """Return the threat's radius for every example, float64 (example,)."""
    return torch.full((len(images),), threat.eps, dtype=torch.float64, device=images.device)


def _affine(step: AffineLayer, sources: Sequence[Box]) -> Box:
    slack = allowance(step.terms)
    center = step.apply(*(box.center for box in sources))
    widened = (box.radius * (1 + slack) + slack * box.center.abs() for box in sources)
    radius = _magnitude(step)(*widened) * (1 + slack)
    if step.offset is not None:
        radius = radius + slack * by_channel(step.offset, radius)
    return Box(center, radius)


def _rows(step: AffineLayer, spread: GradientBounds, radius: Tensor) -> Box:
    """Return the bounds of a mixing layer by the length of its rows: Cauchy and Schwarz."""
    slack = allowance(step.terms)
    center = step.apply(spread.center)
    assert step.squared is not None  # every affine step of one source has it
    length = (step.squared(spread.weight.square()) * (1 + slack)).sqrt() * (1 + slack)
    reached = length * by_example(radius, length) + slack * _magnitude(step)(spread.center.abs()) * (1 + slack)
    return Box(center, reached if step.offset is None else reached + slack * by_channel(step.offset, reached))


def _meet(one: Box, two: Box) -> Box:
    low = (one.center - one.radius).maximum(two.center - two.radius)
    high = (one.center + one.radius).minimum(two.center + two.radius)
    met = Box.between(low, high)
    return Box(met.center, met.radius + 2 * UNIT * (one.size + two.size))


def _relu(box: Box) -> Box:
    low, high = box.center - box.radius, box.center + box.radius
    rounding = 2 * UNIT * box.size
    met = Box.between(low.clamp_min(0), high.clamp_min(0))
    return Box(met.center, met.radius + torch.where(high + rounding > 0, rounding, 0.0))


def _relu_slopes(gradient: Box, values: Box, classes: int) -> Box:
    rounding = 2 * UNIT * values.size
    on = (values.center - values.radius - rounding > 0).repeat_interleave(classes, 0)
    off = (values.center + values.radius + rounding < 0).repeat_interleave(classes, 0)
    low, high = gradient.center - gradient.radius, gradient.center + gradient.radius
    either = Box.between(low.clamp_max(0), high.clamp_min(0))
    center = torch.where(on, gradient.center, either.center).masked_fill(off, 0.0)
    unsure = either.radius + 2 * UNIT * gradient.size
    return Box(center, torch.where(on, gradient.radius, unsure).masked_fill(off, 0.0))


def _transposed(step: AffineLayer, sources: Sequence[Box], gradient: Box, classes: int) -> list[Box]:
    """Carry a gradient back through an affine step, to each of its sources."""
    zeros = [box.center.new_zeros(()).expand_as(box.center.repeat_interleave(classes, 0)) for box in sources]
    # An input goes into no more outputs than there are.
    slack = allowance(gradient.center[0].numel())
    centers = _pulled_back(step.apply, zeros, gradient.center)
    radii = _pulled_back(_magnitude(step), zeros, gradient.radius * (1 + slack) + slack * gradient.center.abs())
    return [Box(center, radius * (1 + slack)) for center, radius in zip(centers, radii, strict=True)]


def _pulled_back(function: Callable[..., Tensor], at: Sequence[Tensor], gradient: Tensor) -> Sequence[Tensor]:
    places = [place.detach().clone().requires_grad_() for place in at]
    with torch.enable_grad():
        out = function(*places)
    return torch.autograd.grad(out, places, gradient)


def _sum(one: Box | None, two: Box) -> Box:
    if one is None:
        return two
    return Box(one.center + two.center, one.radius + two.radius + UNIT * (one.size + two.size))


def _differences(network: Network, label: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight = network.weight[label] - network.weight[others]
    bias = network.bias[label] - network.bias[others]
    return weight, bias, network.bias[label].abs() + network.bias[others].abs()


def _magnitude(step: AffineLayer) -> Callable[..., Tensor]:
    assert step.magnitude is not None  # asked of affine steps only
    return step.magnitude
