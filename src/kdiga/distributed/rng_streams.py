"""The random streams that training steps draw from, and how they are kept."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from kdiga.distributed.batch_shards import BatchShard
from kdiga.distributed.process_group import ProcessGroup
from kdiga.model_state import mix_seed, seeded

OWN_STREAM = 7  # which of the seed's streams dropout draws from, where a batch is in pieces


class RngStreams:
    """Where random numbers come from while steps are taken.

    A process that takes whole batches draws everything from its own stream. Where a batch is in pieces, over
    processes or micro-batches, starts and noise come from a stream that all pieces share: it begins where the one
    process's would, so that its draws are the whole batch's. What is drawn inside a network, as for dropout, then comes
    from a stream of each process's own, and the process's ordinary stream is left to the data loader, which has
    to give every process the same batches.

    Args:
        process_group: of processes.
        pieces: a process's batch is cut into.
        device: whose stream counts beside the CPU's.
    """

    def __init__(self, process_group: ProcessGroup, pieces: int, device: torch.device) -> None:
        self.process_group, self.pieces, self.device = process_group, pieces, device
        self._draws = torch.Generator(device) if process_group.count * pieces > 1 else None
        self._own: dict[str, torch.Tensor] | None = None

    def begin(self, seed: int, epoch: int) -> None:
        """Begin an epoch; the process's ordinary stream is begun by the caller, with the same seed."""
        if self._draws is not None:
            self._draws.manual_seed(mix_seed(seed, epoch))
            with seeded(seed, epoch, OWN_STREAM, self.process_group.rank):
                self._own = self._now()

    @contextmanager
    def stepping(self) -> Generator[None]:
        """Take a step inside."""
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

    def each_piece(self) -> Generator[BatchShard]:
        """Yield this process's pieces of a batch; the draws of all begin at the same place of the stream."""
        process_group, draws = self.process_group, self._draws
        begun = None if draws is None else draws.get_state()
        for number in range(self.pieces):
            if draws is not None and begun is not None:
                draws.set_state(begun)
            yield BatchShard(
                process_group.rank * self.pieces + number,
                process_group.count * self.pieces,
                process_group.rank,
                process_group.count,
                draws,
            )

    def state(self) -> dict[str, Any]:
        """Return where this process's streams stand."""
        draws = None if self._draws is None else self._draws.get_state()
        return {"process": self._now(), "own": self._own, "draws": draws}

    def load_state(self, states: list[Mapping[str, Any]]) -> None:
        """Go on where the streams of an earlier run stood.

        Args:
            states: of all its processes, by rank. If they were another number, starts, noise and data go on as
                they would have, and a network's own draws, as dropout's, begin a new stream.
        """
        first = states[0]
        joint = first["draws"]
        if self._draws is None:
            self._set(first["process"] if joint is None else first["process"] | {self.device.type: joint})
            return
        self._set(first["process"])
        self._draws.set_state(first["process"][self.device.type] if joint is None else joint)
        if len(states) == self.process_group.count and states[self.process_group.rank]["own"] is not None:
            self._own = dict(states[self.process_group.rank]["own"])

    def _now(self) -> dict[str, torch.Tensor]:
        cuda = {"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {"cpu": torch.get_rng_state(), **cuda}

    def _set(self, state: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
