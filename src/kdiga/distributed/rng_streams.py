"""The random streams of training steps, and their state."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from kdiga.distributed.batch_shards import BatchShard
from kdiga.distributed.process_group import ProcessGroup
from kdiga.model_state import mix_seed, seeded

OWN_STREAM = 7  # stream of the seed for dropout, if a batch is divided


class RngStreams:
    """The random streams of training steps.

    A process with whole batches draws all random numbers from its ordinary stream. If a batch is divided over
    processes or micro-batches, starts and noise come from a stream that all parts share: it begins where the ordinary
    stream of one process would begin, so that its numbers are those of the whole batch. Random numbers inside a
    network, such as dropout's, then come from a separate stream of each process. Only the data loader uses the
    ordinary stream, because it must give every process the same batches.

    Args:
        process_group: Processes of the run.
        micro_batches: Number of micro-batches of a process's batch.
        device: Device with a stream besides the CPU's.
    """

    def __init__(self, process_group: ProcessGroup, micro_batches: int, device: torch.device) -> None:
        self.process_group, self.micro_batches, self.device = process_group, micro_batches, device
        self._shared = torch.Generator(device) if process_group.count * micro_batches > 1 else None
        self._own: dict[str, torch.Tensor] | None = None

    def begin(self, seed: int, epoch: int) -> None:
        """Seed the streams for an epoch; the caller seeds the ordinary stream, with the same seed."""
        if self._shared is not None:
            self._shared.manual_seed(mix_seed(seed, epoch))
            with seeded(seed, epoch, OWN_STREAM, self.process_group.rank):
                self._own = self._now()

    @contextmanager
    def stepping(self) -> Generator[None]:
        """Use the streams of a step inside."""
        if self._own is None:
            yield
            return
        outside = self._now()
        self._set(self._own)
        try:
            yield
            self._own = self._now()
        finally:
            self._set(outside)

    def shards(self) -> Generator[BatchShard]:
        """Yield this process's shards of a batch; the random numbers of all begin at the same position."""
        group, shared = self.process_group, self._shared
        start = None if shared is None else shared.get_state()
        for number in range(self.micro_batches):
            if shared is not None and start is not None:
                shared.set_state(start)
            place, count = group.rank * self.micro_batches + number, group.count * self.micro_batches
            yield BatchShard(place, count, group.rank, group.count, shared)

    def state(self) -> dict[str, Any]:
        """Return the state of this process's streams."""
        draws = None if self._shared is None else self._shared.get_state()
        return {"process": self._now(), "own": self._own, "draws": draws}

    def load_state(self, states: list[Mapping[str, Any]]) -> None:
        """Continue the streams of an earlier run.

        Args:
            states: States of all its processes, by rank. With another number of processes, starts, noise and data
                continue unchanged, and random numbers inside a network, such as dropout's, begin a new stream. On
                another type of device only data continues; everything else has the streams of :meth:`begin`.
        """
        first = states[0]
        if ("cuda" in first["process"]) != (self.device.type == "cuda"):
            torch.set_rng_state(first["process"]["cpu"])
            return
        joint = first["draws"]
        if self._shared is None:
            self._set(first["process"] if joint is None else first["process"] | {self.device.type: joint})
            return
        self._set(first["process"])
        self._shared.set_state(first["process"][self.device.type] if joint is None else joint)
        if len(states) == self.process_group.count and states[self.process_group.rank]["own"] is not None:
            self._own = dict(states[self.process_group.rank]["own"])

    def _now(self) -> dict[str, torch.Tensor]:
        cuda = {"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {"cpu": torch.get_rng_state(), **cuda}

    def _set(self, state: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
