"""One batch worked on in pieces, by several processes or one after another: what the pieces have to do together.

A batch of ``B`` examples may be cut into equal runs of rows, over processes and, within each, over micro-batches. The
result should be that of the whole batch at once. Most losses are means over examples, and the mean of the pieces'
means is theirs. Two things are not: random draws, and numbers that depend on several examples of the batch. Both go
through here, and outside :func:`on_batch_shard` both are what they would be without.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdiga.errors import InputError, ProcessLostError


@dataclass(frozen=True)
class Share:
    """Which rows of every batch a process gets: of ``count`` equal runs of rows, the one at ``rank``.

    The shares of all ranks, joined in rank order, are the batch of one process.

    Args:
        rank: of this process, in [0, count).
        count: of processes, at least 1.

    Raises:
        InputError: for a rank beyond the count.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise InputError(f"rank was {self.rank} of {self.count} processes; ranks run from 0 to the count less 1.")

    def size_of(self, whole: int) -> int:
        """Return how many of ``whole`` rows a process gets.

        Raises:
            InputError: if they cannot be divided equally: then the mean over processes would not be the batch's.
        """
        if whole % self.count:
            raise InputError(
                f"a batch of {whole} examples cannot be shared equally by {self.count} processes or micro-batches; "
                f"choose a batch_size that {self.count} divides."
            )
        return whole // self.count

    def rows(self, whole: int) -> slice:
        """Return which of ``whole`` rows are this process's."""
        size = self.size_of(whole)
        return slice(self.rank * size, (self.rank + 1) * size)


WHOLE = Share()


@dataclass(frozen=True)
class BatchShard:
    """Which run of a batch's rows is being worked on.

    Args:
        place: of the piece among all, in row order.
        count: pieces in all.
        rank: of the process.
        processes: that work on pieces of the same batch at the same time.
        draws: the stream of the whole batch's random draws, the same for every piece; None for the process's own
            stream, where the piece is the batch.
    """

    place: int = 0
    count: int = 1
    rank: int = 0
    processes: int = 1
    draws: torch.Generator | None = None

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return numbers drawn uniformly from [low, high], of a tensor's shape, type, device and layout."""
        return self._own(self._whole(like).uniform_(low, high, generator=self.draws))

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers of a tensor's shape, type, device and layout."""
        return self._own(self._whole(like).normal_(generator=self.draws))

    def gather(self, value: Tensor) -> Tensor:
        """Return every process's value, (processes, ...), with a graph to this process's own.

        What is computed from it counts once for each process; the mean of their parameter gradients is then the
        gradient of the number itself.
        """
        if self.processes == 1:
            return value[None]
        return total(
            torch.stack([value if at == self.rank else torch.zeros_like(value) for at in range(self.processes)])
        )

    def _whole(self, like: Tensor) -> Tensor:
        if self.count == 1:
            return torch.empty_like(like)
        layout = torch.contiguous_format
        if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        shape = (len(like) * self.count, *like.shape[1:])
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)

    def _own(self, whole: Tensor) -> Tensor:
        size = len(whole) // self.count
        return whole if self.count == 1 else whole[self.place * size : (self.place + 1) * size]


_current: ContextVar[BatchShard] = ContextVar("piece", default=BatchShard())  # noqa: B039  (frozen)


def current_shard() -> BatchShard:
    """Return the piece that is being worked on; the whole batch where nothing else was said."""
    return _current.get()


@contextmanager
def on_batch_shard(one: BatchShard) -> Generator[None]:
    """Work on a piece inside."""
    token = _current.set(one)
    try:
        yield
    finally:
        _current.reset(token)


def total(value: Tensor) -> Tensor:
    """Return the sum over processes, differentiable as often as need be.

    Each process's loss counts, so the derivative by one process's value is the sum of what all of them send back.
    """
    return _Total.apply(value)  # pyright: ignore[reportReturnType]


@contextmanager
def process_loss_as_error() -> Generator[None]:
    """Exchange something with other processes inside.

    Raises:
        ProcessLostError: if one of them has ended or is silent for too long.
    """
    try:
        yield
    except RuntimeError as error:  # the backends have no type of their own for it
        raise ProcessLostError(error) from error


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        summed = value.detach().clone(memory_format=torch.contiguous_format)
        with process_loss_as_error():
            dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return total(cotangent)
