"""Shards of a batch, over processes or one after another, and the work that depends on the whole batch.

A batch of ``B`` examples can be divided into equal ranges of rows, over processes and, within each, over micro-batches.
The result should be that of the whole batch. Most losses are means over examples, equal to the mean of the shards'
means. Two things are not: random numbers, and values that depend on several examples of the batch. Both use the
:class:`BatchShard` of :func:`current_shard`, which is the whole batch outside :func:`on_batch_shard`.
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
    """The rows of a batch that belong to a process: of ``count`` equal ranges of rows, the one at ``rank``.

    The rows of all ranks, joined in rank order, are the batch of one process.

    Args:
        rank: Rank of this process, in [0, count).
        count: Number of processes, at least 1.

    Raises:
        InputError: If the rank is not below the count.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise InputError(f"rank was {self.rank} of {self.count} processes; ranks run from 0 to the count less 1.")

    def size_of(self, whole: int) -> int:
        """Return the number of rows of a process, for a batch of ``whole`` rows.

        Raises:
            InputError: If they cannot be divided equally; the mean over processes would not be the batch's.
        """
        if whole % self.count:
            raise InputError(
                f"a batch of {whole} examples cannot be shared equally by {self.count} processes or micro-batches; "
                f"choose a batch_size that {self.count} divides."
            )
        return whole // self.count

    def rows(self, whole: int) -> slice:
        """Return the rows of this process, for a batch of ``whole`` rows."""
        size = self.size_of(whole)
        return slice(self.rank * size, (self.rank + 1) * size)


WHOLE = Share()


@dataclass(frozen=True)
class BatchShard:
    """A range of a batch's rows.

    Args:
        place: Position of the shard among all shards, in row order.
        count: Number of shards.
        rank: Rank of the process.
        processes: Number of processes that work on shards of the same batch at the same time.
        generator: Random numbers of the whole batch, the same for every shard; None for the process's ordinary
            stream, if the shard is the batch.
    """

    place: int = 0
    count: int = 1
    rank: int = 0
    processes: int = 1
    generator: torch.Generator | None = None

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform random numbers in [low, high], with a tensor's shape, dtype, device and layout."""
        return self._own(self._whole(like).uniform_(low, high, generator=self.generator))

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal random numbers, with a tensor's shape, dtype, device and layout."""
        return self._own(self._whole(like).normal_(generator=self.generator))

    def gather(self, value: Tensor) -> Tensor:
        """Return every process's value, of shape (processes, ...), with a graph to the value of this process.

        A loss of it counts once in each process; the mean of the processes' parameter gradients is then the gradient
        of the loss.
        """
        if self.processes == 1:
            return value[None]
        return sum_over_processes(
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


_current: ContextVar[BatchShard] = ContextVar("shard", default=BatchShard())  # noqa: B039  (frozen)


def current_shard() -> BatchShard:
    """Return the shard of the present context; the whole batch outside :func:`on_batch_shard`."""
    return _current.get()


@contextmanager
def on_batch_shard(shard: BatchShard) -> Generator[None]:
    """Make a shard the current one inside."""
    token = _current.set(shard)
    try:
        yield
    finally:
        _current.reset(token)


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum over processes, differentiable any number of times.

    The derivative by one process's value is the sum of the gradients from all processes, since each one's loss counts.
    """
    return _SumOverProcesses.apply(value)  # pyright: ignore[reportReturnType]


@contextmanager
def process_loss_as_error() -> Generator[None]:
    """Communicate with other processes inside.

    Raises:
        ProcessLostError: If one of them has ended or does not answer in time.
    """
    try:
        yield
    except RuntimeError as error:  # the backends have no special type
        raise ProcessLostError(error) from error


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        summed = value.detach().clone(memory_format=torch.contiguous_format)
        with process_loss_as_error():
            dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_over_processes(cotangent)
