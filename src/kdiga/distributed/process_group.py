"""The processes of one run, on one or several machines or GPUs, and their communication.

The student is not wrapped in ``DistributedDataParallel``. Its hooks expect one forward and one backward pass a step of
the wrapped module, while methods run the student several times a step, differentiate it twice, run it again inside the
backward pass (the finite-difference routes) and without the module (compiled). Instead the parameter gradients are
averaged once, after all backward passes: in one exchange, of the same size.
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
from kdiga.errors import InputError, KdigaError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # for a process that does not answer; the end of a process is detected at once


@dataclass(frozen=True)
class ProcessGroup:
    """The position of this process among the processes of a run.

    Args:
        rank: Rank of this process, from 0; the first process writes and prints.
        count: Number of processes.
        object_group: PyTorch's group for the exchange of plain data on the CPU; None for the group of tensors.
    """

    rank: int = 0
    count: int = 1
    object_group: Any = None

    @classmethod
    def connect(cls, device: torch.device) -> ProcessGroup:
        """Return the processes that ``torchrun`` or ``accelerate launch`` started, or a group of one process.

        Args:
            device: Device of the type, "cpu" or "cuda", that the processes compute on.
        """
        if not _several():
            return SINGLE_PROCESS
        with process_loss_as_error():
            state = _connected(device)
            object_group = None if device.type == "cpu" else dist.new_group(backend="gloo", timeout=TIMEOUT)
        return cls(state.process_index, state.num_processes, object_group)

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The rows of a batch that belong to this process."""
        return Share(self.rank, self.count)

    def broadcast(self, value: T) -> T:
        """Return the first process's value."""
        if self.count == 1:
            return value
        box: list[Any] = [value if self.leads else None]
        with process_loss_as_error():
            dist.broadcast_object_list(box, 0, group=self.object_group)
        return box[0]

    def run_on_first(self, work: Callable[[], T]) -> T:
        """Return the result of a function that only the first process calls; the others wait for it.

        Raises:
            KdigaError: In every process, if the function raised it.
        """
        outcome: Any = None
        if self.leads:
            try:
                outcome = work()
            except KdigaError as error:
                if self.count == 1:
                    raise
                outcome = error
        outcome = self.broadcast(outcome)
        if isinstance(outcome, KdigaError):
            raise outcome
        return outcome

    def gathered(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with process_loss_as_error():
            dist.all_gather_object(found, value, group=self.object_group)
        return found

    def highest(self, number: int) -> int:
        """Return the highest of all processes' numbers."""
        if self.count == 1:
            return number
        highest = torch.tensor(number)
        with process_loss_as_error():
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=self.object_group)
        return int(highest)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over processes, in one exchange for each dtype."""
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

    def broadcast_weights(self, model: nn.Module) -> None:
        """Copy the first process's parameters and buffers to every process."""
        if self.count == 1:
            return
        with process_loss_as_error():
            for value in model.state_dict().values():
                contiguous = value.detach().contiguous()
                dist.broadcast(contiguous, 0)
                value.copy_(contiguous)


SINGLE_PROCESS = ProcessGroup()


def device_of_process(device: torch.device) -> torch.device:
    """Return this process's device of the type "cpu" or "cuda"; of several processes on a machine each has its GPU."""
    return _connected(device).device if _several() else device


def _several() -> bool:
    return launched() or dist.is_initialized()


def _connected(device: torch.device) -> Any:
    """Return Accelerate's state of the processes; its other settings, such as precision, have no effect here."""
    from accelerate import PartialState

    state: Any = PartialState(cpu=device.type == "cpu", timeout=TIMEOUT)
    if state.device.type != device.type:
        raise InputError(
            f"device was {device.type!r} and the processes of this program compute on {state.device.type!r}; use one "
            "device for all."
        )
    return state
