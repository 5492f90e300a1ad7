"""RayS (Chen and Gu, 2020): an attack that sees only the predicted class of each query, and needs no random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, pairwise

import torch
from torch import Tensor, nn

HALVINGS = 6  # of the length of a ray, after each better direction
SHORTER = 0.99  # of the length of the best ray; a direction that does not fool there is not better


@torch.no_grad()
def shortest_rays(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    queries: int,
    enough: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the ends of the shortest rays ``x + r d``, ``d`` in {-1, 1}^n, that a search found to be misclassified.

    The search starts from ``d = 1`` and changes the sign of one block of pixels after another: of the whole image, of
    halves, of quarters, down to single pixels, and again from the start. A change that fools at 99 % of the shortest
    length is accepted, and the new length is found by bisection. The paper's attack is for Linf, where ``r`` is the
    distance. In L2 the same ray is ``r sqrt(n)`` long, or less where pixels are clipped.

    Args:
        model: Network from images to logits, of which only the predicted class is used.
        images: Correctly classified images, float (batch, channel, height, width), pixels in [0, 1].
        labels: Labels, int64 (batch,).
        queries: Largest number of queries of an image.
        enough: Function from ends and images to whether the search may stop there, bool (batch,).

    Returns:
        Images in [0, 1], the given ones where no ray fools.
    """
    size = images[0].numel()
    signs, ends = images.new_ones(len(images), size), images.clone()
    lengths, used = images.new_full((len(images),), 1 / SHORTER), torch.zeros_like(labels)
    reached = torch.zeros_like(labels, dtype=torch.bool)

    def points(rows: Tensor, directions: Tensor, radius: Tensor) -> Tensor:
        return (images[rows] + (radius[:, None] * directions).view_as(images[rows])).clamp(0, 1)

    def fools(rows: Tensor, directions: Tensor, radius: Tensor) -> Tensor:
        used[rows] += 1
        return model(points(rows, directions, radius)).argmax(1) != labels[rows]

    for block in _blocks(size):
        rows = ((used + 1 + HALVINGS <= queries) & ~reached).nonzero()[:, 0]
        if not len(rows):
            break
        tried = signs[rows]
        tried[:, block] *= -1
        better = fools(rows, tried, SHORTER * lengths[rows])
        rows, tried = rows[better], tried[better]
        if not len(rows):
            continue
        low, high = torch.zeros_like(lengths[rows]), SHORTER * lengths[rows]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            hit = fools(rows, tried, middle)
            low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
        signs[rows], lengths[rows], ends[rows] = tried, high, points(rows, tried, high)
        if enough is not None:
            reached[rows] = enough(ends[rows], images[rows])
    return ends


def _blocks(size: int) -> Iterator[slice]:
    """Yield no pixel, then ranges of pixels: all, halves, quarters, down to single ones, and all again."""
    yield slice(0, 0)
    for level in count():
        parts = 2 ** (level % (size.bit_length() + 1))
        edges = sorted({part * size // parts for part in range(parts + 1)})
        yield from (slice(*ends) for ends in pairwise(edges))
