"""Fill a store with a live teacher's signals, shard by shard; several processes can fill it together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kdiga.data import FileSet, ImageSet, View, batch_of
from kdiga.data.views import check_view
from kdiga.io.file_lock import file_lock
from kdiga.out_of_memory import out_of_memory_as_error
from kdiga.teachers.packing import Rows, pack
from kdiga.teachers.store import Store, StoreShard
from kdiga.types import Batch, TeacherSignal

POLL = 0.5  # seconds between checks for shards of other processes

Teach = Callable[[Batch], TeacherSignal]
OnShard = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TeacherSource:
    """The source of a store's signals.

    Args:
        data: Training images, on the teacher's device.
        augmentation: Augmentation of each example.
        teach: Live teacher, in the layout and precision of training.

    Raises:
        InputError: if the augmentation cannot take the images.
    """

    data: ImageSet | FileSet
    augmentation: View
    teach: Teach

    def __post_init__(self) -> None:
        check_view(self.augmentation, self.data.image_shape)


def fill(store: Store, source: TeacherSource, on_shard: OnShard | None = None) -> None:
    """Write every missing shard, and wait for the shards that other processes write.

    Raises:
        StoreFullError: If the disk is full; the shards so far stay.
        InputError: If a signal is not finite.
        OutOfMemoryError: If memory runs out; the message says what to reduce.
    """
    size = store.manifest.batch_size
    with out_of_memory_as_error(f"batches of {size} images were too large; reduce training.batch_size."):
        while missing := store.missing():
            written = [_attempt(shard, store, source, on_shard) for shard in missing]
            if not any(written):
                time.sleep(POLL)


def _attempt(shard: StoreShard, store: Store, source: TeacherSource, on_shard: OnShard | None) -> bool:
    if store.is_complete(shard):
        return False
    with file_lock(store.folder, shard.name) as mine:
        if not mine or store.is_complete(shard):
            return False
        store.write(shard, _rows(shard, store, source))
    if on_shard is not None:
        on_shard(shard.name, len(store.shards) - len(store.missing()), len(store.shards))
    return True


def _rows(shard: StoreShard, store: Store, source: TeacherSource) -> Iterator[Rows]:
    manifest = store.manifest
    for start in range(shard.start, shard.stop, manifest.batch_size):
        # A short last batch is filled up: kernels, and with them the last bits, depend on the batch size.
        index = torch.arange(start, start + manifest.batch_size) % manifest.examples
        batch = batch_of(source.data, index, source.augmentation, seed=manifest.seed, view=shard.view)
        yield pack(source.teach(batch), manifest)[: shard.stop - start]


def discard_damaged(store: Store) -> list[tuple[StoreShard, str]]:
    """Verify the shards, discard damaged ones so that :func:`fill` writes them again, and return these."""
    damaged = list[tuple[StoreShard, str]]()
    for shard in store.shards:
        if not store.is_complete(shard):
            continue
        with file_lock(store.folder, shard.name) as mine:
            problem = store.problem(shard) if mine else None
            if problem is not None:
                store.discard(shard)
                damaged.append((shard, problem))
    return damaged
