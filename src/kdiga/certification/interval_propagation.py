"""Interval bounds of the values of a network (forward) and of its input gradients (backward).

Gowal et al. (2018, arXiv 1810.12715) propagate a box by its center and radius, ``A c + b`` and ``|A| r``; a ReLU
applies to both ends of each interval. The backward pass does the same with the transposes. The slope of a ReLU is 1 if
its input is always above 0, 0 if it is always below, and anything in [0, 1] otherwise.

All computations are in float64, and each radius is widened by more than the rounding of its step: a sum of ``n``
products has an error of at most ``(n + 2) u`` of the sum of their sizes, ``u`` the unit roundoff, in any order of
summation (Higham, 2002, section 3.1); the code takes ``2 (n + 8) u``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiga.certification.class_scores import other_classes
from kdiga.certification.interval_layers import AffineLayer, by_channel
from kdiga.certification.interval_network import TracedNetwork

UNIT = 2.0**-52  # twice the unit roundoff of float64


@dataclass(frozen=True)
class IntervalTensor:
    """Intervals ``center - radius`` to ``center + radius``, float64, any shape with the examples first."""

    center: Tensor
    radius: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> IntervalTensor:
        """Return the intervals from ``low`` to ``high``."""
        return cls((low + high) / 2, (high - low).clamp_min(0) / 2 + 2 * UNIT * (low.abs() + high.abs()))

    @property
    def size(self) -> Tensor:
        """Largest absolute value in each interval."""
        return self.center.abs() + self.radius


@dataclass(frozen=True)
class Ellipsoid:
    """Values ``center + weight * z``, elementwise, for all z in an L2 ball per example."""

    center: Tensor
    weight: Tensor


@dataclass(frozen=True)
class ValueBounds:
    """Bounds of all values of a network over a ball around each image.

    Args:
        intervals: Intervals of each value, the images first, the input of the last linear layer last.
        ellipsoid: The last value as an ellipsoid, for an L2 ball that only rescaling layers have changed; else None.
        radius: Radii of the balls, float64 (example,).
    """

    intervals: Sequence[IntervalTensor]
    ellipsoid: Ellipsoid | None
    radius: Tensor


def bound_values(network: TracedNetwork, images: Tensor, radius: Tensor, norm: str) -> ValueBounds:
    """Return bounds of all values, for float64 images and a radius per example, float64 (example,).

    Each ball is intersected with [0, 1]. An L2 ball is used up to the first layer that mixes pixels, by the lengths of
    its rows; from there on it is a box.
    """
    distance = _per_example(radius, images)
    intervals = [IntervalTensor.between((images - distance).clamp_min(0), (images + distance).clamp_max(1))]
    ellipsoids: list[Ellipsoid | None] = [Ellipsoid(images, torch.ones_like(images)) if norm == "l2" else None]
    for layer in network.layers:
        sources = [intervals[source] for source in layer.sources]
        ellipsoid = ellipsoids[layer.sources[0]] if len(layer.sources) == 1 else None
        if layer.magnitude is None:
            intervals.append(_relu(sources[0]))
            ellipsoids.append(None)
            continue
        bounds = _affine(layer, sources)
        passed = None
        if ellipsoid is not None and layer.diagonal:
            passed = Ellipsoid(layer.apply(ellipsoid.center), layer.magnitude(ellipsoid.weight))
        elif ellipsoid is not None:
            bounds = _intersection(bounds, _row_lengths(layer, ellipsoid, radius))
        intervals.append(bounds)
        ellipsoids.append(passed)
    return ValueBounds(intervals, ellipsoids[-1], radius)


def bound_margins(network: TracedNetwork, values: ValueBounds, labels: Tensor) -> Tensor:
    """Return lower bounds of ``f_c - f_j``, float64 (example, num_classes - 1), classes as in :func:`other_classes`.

    The rows of the last layer are subtracted first: the margin is bounded directly, not as two logits.
    """
    last = values.intervals[-1]
    others = other_classes(labels, len(network.weight))
    found = torch.empty_like(others, dtype=torch.float64)
    for label in labels.unique():
        rows = labels == label
        weight, bias, offset = _differences(network, label, others[rows][0])
        slack = rounding_allowance(weight.shape[1])
        center, radius = last.center[rows], last.radius[rows]
        size = center.abs() @ weight.abs().T + offset
        low = center @ weight.T + bias - (radius @ weight.abs().T) * (1 + slack) - slack * size
        if values.ellipsoid is not None:
            at, scale = values.ellipsoid.center[rows], values.ellipsoid.weight[rows]
            length = (scale.square() @ weight.square().T).sqrt() * values.radius[rows, None] * (1 + slack)
            size = at.abs() @ weight.abs().T + offset
            low = low.maximum(at @ weight.T + bias - length - slack * size)
        found[rows] = low
    return found


def bound_gradients(network: TracedNetwork, values: ValueBounds, labels: Tensor) -> IntervalTensor:
    """Return bounds of the input gradients of ``f_c - f_j`` everywhere in the balls.

    They are (example * (num_classes - 1), channel, height, width), the classes of an example together. At the kink of a
    ReLU they cover every slope in [0, 1].
    """
    classes = len(network.weight) - 1
    others = other_classes(labels, classes + 1)
    weight = network.weight[labels][:, None] - network.weight[others]
    start = weight.reshape(len(labels) * classes, *values.intervals[-1].center.shape[1:])
    gradients: list[IntervalTensor | None] = [None] * len(network.layers)
    gradients.append(IntervalTensor(start, 2 * UNIT * start.abs()))
    for place in reversed(range(len(network.layers))):
        layer, outgoing = network.layers[place], gradients[place + 1]
        if outgoing is None:
            continue
        sources = [values.intervals[source] for source in layer.sources]
        if layer.magnitude is None:
            passed = [_relu_slopes(outgoing, sources[0], classes)]
        else:
            passed = _transposed(layer, sources, outgoing, classes)
        for source, gradient in zip(layer.sources, passed, strict=True):
            gradients[source] = _sum(gradients[source], gradient)
    if gradients[0] is None:
        zeros = start.new_zeros(len(start), *values.intervals[0].center.shape[1:])
        return IntervalTensor(zeros, zeros)
    return gradients[0]


def largest_dual_norms(gradients: IntervalTensor, norm: str) -> Tensor:
    """Return the largest dual norm in each row of gradient intervals, float64 (row,)."""
    size = gradients.size.flatten(1)
    length = size.sum(1) if norm == "linf" else torch.linalg.vector_norm(size, dim=1)
    return length * (1 + rounding_allowance(size.shape[1]))


def rounding_allowance(terms: int) -> float:
    """Return the relative widening of a sum of so many products."""
    return (terms + 8) * UNIT


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def _affine(layer: AffineLayer, sources: Sequence[IntervalTensor]) -> IntervalTensor:
    slack = rounding_allowance(layer.terms)
    center = layer.apply(*(source.center for source in sources))
    widened = (source.radius * (1 + slack) + slack * source.center.abs() for source in sources)
    radius = _magnitude(layer)(*widened) * (1 + slack)
    return IntervalTensor(center, _with_offset(layer, radius, slack))


def _row_lengths(layer: AffineLayer, ellipsoid: Ellipsoid, radius: Tensor) -> IntervalTensor:
    """Return the bounds of a mixing layer by the lengths of its rows (Cauchy-Schwarz)."""
    slack = rounding_allowance(layer.terms)
    center = layer.apply(ellipsoid.center)
    assert layer.squared is not None  # every affine layer of one source has it
    length = (layer.squared(ellipsoid.weight.square()) * (1 + slack)).sqrt() * (1 + slack)
    rounding = slack * _magnitude(layer)(ellipsoid.center.abs()) * (1 + slack)
    return IntervalTensor(center, _with_offset(layer, length * _per_example(radius, length) + rounding, slack))


def _with_offset(layer: AffineLayer, radius: Tensor, slack: float) -> Tensor:
    return radius if layer.offset is None else radius + slack * by_channel(layer.offset, radius)


def _intersection(first: IntervalTensor, second: IntervalTensor) -> IntervalTensor:
    low = (first.center - first.radius).maximum(second.center - second.radius)
    high = (first.center + first.radius).minimum(second.center + second.radius)
    found = IntervalTensor.between(low, high)
    return IntervalTensor(found.center, found.radius + 2 * UNIT * (first.size + second.size))


def _relu(values: IntervalTensor) -> IntervalTensor:
    low, high = values.center - values.radius, values.center + values.radius
    rounding = 2 * UNIT * values.size
    found = IntervalTensor.between(low.clamp_min(0), high.clamp_min(0))
    return IntervalTensor(found.center, found.radius + torch.where(high + rounding > 0, rounding, 0.0))


def _relu_slopes(gradient: IntervalTensor, values: IntervalTensor, classes: int) -> IntervalTensor:
    rounding = 2 * UNIT * values.size
    on = (values.center - values.radius - rounding > 0).repeat_interleave(classes, 0)
    off = (values.center + values.radius + rounding < 0).repeat_interleave(classes, 0)
    low, high = gradient.center - gradient.radius, gradient.center + gradient.radius
    either = IntervalTensor.between(low.clamp_max(0), high.clamp_min(0))
    center = torch.where(on, gradient.center, either.center).masked_fill(off, 0.0)
    unsure = either.radius + 2 * UNIT * gradient.size
    return IntervalTensor(center, torch.where(on, gradient.radius, unsure).masked_fill(off, 0.0))


def _transposed(
    layer: AffineLayer, sources: Sequence[IntervalTensor], gradient: IntervalTensor, classes: int
) -> list[IntervalTensor]:
    """Propagate a gradient back through an affine layer, to each of its sources."""
    zeros = [torch.zeros_like(source.center.repeat_interleave(classes, 0)) for source in sources]
    # An input contributes to at most all outputs.
    slack = rounding_allowance(gradient.center[0].numel())
    centers = _vector_jacobian_product(layer.apply, zeros, gradient.center)
    widened = gradient.radius * (1 + slack) + slack * gradient.center.abs()
    radii = _vector_jacobian_product(_magnitude(layer), zeros, widened)
    return [IntervalTensor(center, radius * (1 + slack)) for center, radius in zip(centers, radii, strict=True)]


def _vector_jacobian_product(
    function: Callable[..., Tensor], at: Sequence[Tensor], gradient: Tensor
) -> Sequence[Tensor]:
    inputs = [value.detach().clone().requires_grad_() for value in at]
    with torch.enable_grad():
        output = function(*inputs)
    return torch.autograd.grad(output, inputs, gradient)


def _sum(first: IntervalTensor | None, second: IntervalTensor) -> IntervalTensor:
    if first is None:
        return second
    rounding = UNIT * (first.size + second.size)
    return IntervalTensor(first.center + second.center, first.radius + second.radius + rounding)


def _differences(network: TracedNetwork, label: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight and bias of ``f_c - f_j``, and the size of the two biases."""
    weight = network.weight[label] - network.weight[others]
    bias = network.bias[label] - network.bias[others]
    return weight, bias, network.bias[label].abs() + network.bias[others].abs()


def _magnitude(layer: AffineLayer) -> Callable[..., Tensor]:
    assert layer.magnitude is not None  # only a ReLU has none
    return layer.magnitude
