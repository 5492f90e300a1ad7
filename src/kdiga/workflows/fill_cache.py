"""Fill a recipe's store, by one process or several."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from kdiga.data import FileSet, ImageSet
from kdiga.distributed.launch import check_started_once, follow_parent
from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import KdigaError
from kdiga.models import Classifier
from kdiga.recipes.schema import Recipe
from kdiga.teachers import Store
from kdiga.teachers.build import POLL, OnShard, discard_damaged, fill
from kdiga.training.cached_teachers import live_source
from kdiga.training.runtime import device_by_name
from kdiga.workflows.cache import CachePlan, train_part
from kdiga.workflows.train import build_models, load_recipe_data


class FillersEndedError(KdigaError, RuntimeError):
    """A process that filled the store ended before its work did."""

    exit_status = 1


def fill_cache(plan: CachePlan, *, workers: int = 1, on_shard: OnShard | None = None) -> Sequence[str]:
    """Fill a store, as far as it is not filled, and return what was damaged in it and is filled again.

    Of several processes that a launcher started, each makes the call; they share the work shard by shard.

    Args:
        plan: what to do.
        workers: processes; 1 works in this one. Threads are shared out among them.
        on_shard: told of each shard.

    Raises:
        StoreFullError: if the disk is full; what is stored so far is kept.
        FillersEndedError: if a worker was killed.
        InputError: if the store cannot be written, a signal is not finite, or a launcher's processes are to have
            workers each.
    """
    if workers > 1:
        check_started_once("a cache with several workers", "or leave out --workers")
    process_group = ProcessGroup.here(device_by_name(plan.recipe.training.device))
    store = process_group.first(lambda: Store.create(plan.folder, plan.store.manifest, overwrite=plan.overwrite))
    damaged = process_group.first(
        lambda: [f"{store.path(shard)} {problem}" for shard, problem in discard_damaged(store)]
    )
    workers = max(1, min(workers, len(store.missing())))
    if workers == 1:
        _fill(plan.recipe, store, plan.teacher, plan.train, on_shard)
    else:
        _fill_together(plan.recipe, store, workers, on_shard)
    return damaged


def _fill(
    recipe: Recipe, store: Store, teacher: Classifier, train: ImageSet | FileSet, on_shard: OnShard | None
) -> None:
    fill(store, live_source(teacher, train, store.manifest.gradient_of, recipe.training), on_shard)


def _fill_together(recipe: Recipe, store: Store, workers: int, on_shard: OnShard | None) -> None:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    running = list[tuple[BaseProcess, Any]]()  # with the end of its pipe, whose class depends on the system
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(recipe, store.folder, threads, theirs), daemon=True)
            process.start()
            theirs.close()
            running.append((process, ours))
        _watch(store, running, on_shard)
    finally:
        for process, _ in running:
            process.terminate()
            process.join()


def _worker(recipe: Recipe, folder: Path, threads: int, tell: Connection) -> None:
    follow_parent()
    torch.set_num_threads(threads)
    try:
        data = load_recipe_data(recipe.data)
        teacher = build_models(recipe, data).teacher
        assert teacher is not None
        _fill(recipe, Store.open(folder), teacher, train_part(recipe, data), None)
        tell.send(None)
    except KdigaError as error:
        tell.send(error)


def _watch(store: Store, running: Sequence[tuple[BaseProcess, Any]], on_shard: OnShard | None) -> None:
    """Tell of the shards that appear until all workers have ended, and raise what stopped one."""
    there = {shard for shard in store.shards if store.is_complete(shard)}
    while True:
        alive = [process.is_alive() for process, _ in running]
        for shard in store.shards:
            if shard not in there and store.is_complete(shard):
                there.add(shard)
                if on_shard is not None:
                    on_shard(shard.name, len(there), len(store.shards))
        if not any(alive):
            break
        time.sleep(POLL)
    for _, connection in running:
        with suppress(EOFError, OSError):
            error: Any = connection.recv() if connection.poll() else None
            if isinstance(error, KdigaError):
                raise error
    if store.missing():
        codes = ", ".join(str(process.exitcode) for process, _ in running)
        raise FillersEndedError(
            f"workers ended early (exit status {codes}); perhaps memory ran out. What is stored is kept and the same "
            "command goes on, with fewer --workers if need be."
        )
