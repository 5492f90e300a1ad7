"""Input gradients of margins at many points of a ball, for all classes of one forward pass."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from kdiga.attacks import uniform_start
from kdiga.certification.class_scores import other_classes
from kdiga.errors import InputError
from kdiga.losses import DUAL_ORDER
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

# Points of one pass through the network. On a CPU what a pass keeps has to stay in the allocator's own pool: at 500
# points of 28x28 up to half of the time went into page faults.
POINTS = {"cpu": 50, "cuda": 2000}
FEW_CHANNELS = 8


def largest_norms(
    models: Sequence[nn.Module],
    image: Tensor,
    label: Tensor,
    *,
    ball: ThreatModel,
    batches: int,
    batch_size: int,
    seed: Sequence[int],
    points: int | None = None,
) -> list[Tensor]:
    """Return the largest gradient norm of each batch of random points around an image, for every other class.

    The points are drawn uniformly from the ball and clipped to [0, 1], as attacks start. All classes share them: a
    forward pass serves ``num_classes - 1`` backward passes. All models share them too.

    Args:
        models: one; or two, whose difference is then measured as well. In eval mode, parameters frozen.
        image: float (channel, height, width).
        label: int64 (), the class c.
        ball: norm, and radius as eps.
        batches: how many batches of points.
        batch_size: points in each.
        seed: integers that decide the points.
        points: that go through the network together; None chooses by device. Answers depend on it by rounding alone.

    Returns:
        For each model, and after two models for the difference of their gradients, float (batches, num_classes - 1):
        the largest ``||grad (f_c - f_j)||_q`` of each batch, in logits per unit of the ball's norm; ``q`` is dual to
        the norm, classes ``j`` are in the order of :func:`other_classes`.
    """
    count = batches * batch_size
    with seeded(*seed):
        start = uniform_start(image[None].expand(count, *image.shape), ball)
    order = DUAL_ORDER[ball.norm]
    parts = start.split(points or POINTS.get(image.device.type, 500))
    norms = [_norms(models, part, label.expand(len(part)), order) for part in parts]
    return [torch.cat(each).view(batches, batch_size, -1).amax(1) for each in zip(*norms, strict=True)]


@contextmanager
def quick_convolutions(models: Sequence[nn.Module]) -> Generator[None]:
    """Choose for each convolution on a CPU the kernels whose input gradients are fastest; answers change by rounding.

    PyTorch's own choice, oneDNN, is up to ten times slower than a matrix product where the input has a channel
    or a few, as in a first layer on grey images, and twice as slow on channels-first weights as on channels-last ones.
    """
    with ExitStack() as stack:
        for layer in {part for model in models for part in model.modules() if type(part) is nn.Conv2d}:
            if layer.weight.device.type != "cpu":
                continue
            if _suits_matrix_product(layer):
                setattr(layer, "forward", partial(_by_matrix_product, layer))  # noqa: B010
                stack.callback(layer.__dict__.pop, "forward")
            else:
                stack.callback(setattr, layer.weight, "data", layer.weight.data)
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
        yield


def _suits_matrix_product(layer: nn.Conv2d) -> bool:
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str) and layer.groups == 1
    simple = plain and layer.dilation == (1, 1) and "forward" not in layer.__dict__
    return simple and layer.in_channels <= FEW_CHANNELS and layer.weight.dtype in (torch.float32, torch.float64)


def _by_matrix_product(layer: nn.Conv2d, images: Tensor) -> Tensor:
    # Its own operator in PyTorch, which nn.Conv2d would reach with oneDNN switched off for the whole process.
    out = torch.ops.aten.thnn_conv2d(
        images, layer.weight, list(layer.kernel_size), layer.bias, list(layer.stride), list(layer.padding)
    )
    return out.contiguous(memory_format=torch.channels_last) if layer.out_channels > FEW_CHANNELS else out


def _norms(models: Sequence[nn.Module], points: Tensor, labels: Tensor, order: int) -> list[Tensor]:
    """Return for each model, and for the difference of two, the norms (point, num_classes - 1)."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = [model(points) for model in models]
    if not all(z.requires_grad for z in logits):
        raise InputError(
            "no gradient reaches the model's input, which CLEVER is made of; certify it by smoothing, which needs none."
        )
    num_classes = logits[0].shape[1]
    others = other_classes(labels, num_classes)
    found: list[list[Tensor]] = [[] for _ in range(len(models) + (len(models) == 2))]
    for place in range(num_classes - 1):
        direction = torch.zeros_like(logits[0])
        direction.scatter_(1, labels[:, None], 1.0).scatter_(1, others[:, place, None], -1.0)
        kept = place < num_classes - 2
        gradients = [
            torch.autograd.grad(z, points, direction, retain_graph=kept, materialize_grads=True)[0] for z in logits
        ]
        if len(gradients) == 2:
            gradients.append(gradients[1] - gradients[0])
        for norms, gradient in zip(found, gradients, strict=True):
            norms.append(torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1))
    return [torch.stack(norms, 1) for norms in found]
