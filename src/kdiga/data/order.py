"""Which rows make each batch of an epoch, and which of those are a process's: decided by (seed, epoch, place) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdiga.distributed.batch_shards import Share
from kdiga.errors import InputError
from kdiga.model_state import mix_seed


def check_sizes(batch_size: int, views: int | None) -> None:
    """Check what every feed asks.

    Raises:
        InputError: for a number below 1.
    """
    for name, value in (("batch_size", batch_size), ("views", views)):
        if value is not None and value < 1:
            raise InputError(f"{name} was {value!r}; it must be at least 1.")


def batches_in(examples: int, batch_size: int) -> int:
    """Return the batches of an epoch: a short last one is dropped, so that every step has the same size."""
    return max(1, examples // batch_size)


def batch_rows(
    examples: int, batch_size: int, *, seed: int, epoch: int, start: int, share: Share, device: torch.device
) -> Iterator[Tensor]:
    """Yield a process's rows of the batches of one epoch, from batch ``start`` on; each row comes once an epoch.

    Args:
        examples: rows in all.
        batch_size: of all processes together.
        seed: decides the order, together with the epoch.
        epoch: from 0.
        start: the first batch that is wanted.
        share: of every batch, for this process.
        device: of the rows.
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
    order = torch.randperm(examples, generator=generator).to(device)
    for place in range(start, batches_in(examples, batch_size)):
        index = order[place * batch_size : (place + 1) * batch_size]
        yield index[share.rows(len(index))]
