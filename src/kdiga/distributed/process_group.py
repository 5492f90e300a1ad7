"""The processes of one run, each a process of its own machine or GPU: what they tell each other.

The student is not wrapped in ``DistributedDataParallel``. Its hooks expect one forward and one backward pass a step of
the wrapped module, while methods run the student several times a step, differentiate it twice, run it again inside the
backward pass (the finite-difference routes) and past the module (compiled). In its place the parameter gradients are
averaged once, when all backward passes are done: in one exchange, of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdiga.distributed.batch_shards import Share, process_loss_as_error
from kdiga.distributed.launch import launched
from kdiga.errors import KdigaError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # after which a silent process counts as lost; one that ended is noticed at once


@dataclass(frozen=True)
class ProcessGroup:
    """Which process this is, and of how many.

    Args:
        rank: from 0; the first one writes and prints.
        count: of processes.
        talk: the group in which plain data is exchanged, on the CPU; None for the one that tensors use.
    """

    rank: int = 0
    count: int = 1
    talk: Any = None

    @classmethod
    def here(cls, device: torch.device) -> ProcessGroup:
        """Return the processes that ``torchrun`` or ``accelerate launch`` started, connected; one alone otherwise.

        Args:
            device: its type, "cpu" or "cuda", is what the processes will compute on.
        """
        if not launched() and not dist.is_initialized():
            return ALONE
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        handlers: list[Any] = [InitProcessGroupKwargs(timeout=TIMEOUT)]
        with process_loss_as_error():
            accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=handlers)
            talk = None if device.type == "cpu" else dist.new_group(backend="gloo", timeout=TIMEOUT)
        return cls(accelerator.process_index, accelerator.num_processes, talk)

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """Which rows of a batch are this process's."""
        return Share(self.rank, self.count)

    def told(self, value: T) -> T:
        """Return the first process's value."""
        if self.count == 1:
            return value
        box: list[Any] = [value if self.leads else None]
        with process_loss_as_error():
            dist.broadcast_object_list(box, 0, group=self.talk)
        return box[0]

    def first(self, work: Callable[[], T]) -> T:
        """Return what the first process's work comes to; the others wait for it.

        Raises:
            KdigaError: in every process, if the work raised it.
        """
        outcome: Any = None
        if self.leads:
            try:
                outcome = work()
            except KdigaError as error:
                if self.count == 1:
                    raise
                outcome = error
        outcome = self.told(outcome)
        if isinstance(outcome, KdigaError):
            raise outcome
        return outcome

    def gathered(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with process_loss_as_error():
            dist.all_gather_object(found, value, group=self.talk)
        return found

    def highest(self, number: int) -> int:
        """Return the highest of all processes' numbers."""
        if self.count == 1:
            return number
        held = torch.tensor(number)
        with process_loss_as_error():
            dist.all_reduce(held, dist.ReduceOp.MAX, group=self.talk)
        return int(held)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over processes in each tensor's place, in one exchange for each type of number."""
        if self.count == 1:
            return
        for dtype in dict.fromkeys(one.dtype for one in tensors):
            some = [one for one in tensors if one.dtype == dtype]
            flat = torch.cat([one.detach().reshape(-1) for one in some])
            with process_loss_as_error():
                dist.all_reduce(flat)
            flat /= self.count
            for one, mean in zip(some, flat.split([one.numel() for one in some]), strict=True):
                one.detach().copy_(mean.view(one.shape))

    def begin_equal(self, model: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.count == 1:
            return
        with process_loss_as_error():
            for value in model.state_dict().values():
                held = value.detach().contiguous()
                dist.broadcast(held, 0)
                value.copy_(held)


ALONE = ProcessGroup()
