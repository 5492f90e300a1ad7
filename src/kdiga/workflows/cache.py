"""Teacher stores of recipes with a section ``cache``: plan and fill a store, compare it with the teacher, open it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from kdiga.data import FileSet, ImageSet, MixedSet, augmentation_by_name, feed_of
from kdiga.distributed.launch import check_started_once
from kdiga.distributed.process_group import ProcessGroup
from kdiga.distributed.worker_processes import LocalExecutor, WorkerLostError, WorkersEndedError
from kdiga.errors import InputError
from kdiga.models import Classifier
from kdiga.recipes.schema import CacheConfig, Recipe
from kdiga.runs.fingerprints import architecture_of, fingerprint_of_model
from kdiga.runs.provenance import provenance
from kdiga.teachers import CachedTeacher, Manifest, Store
from kdiga.teachers.fill import POLL, OnShard, TeacherSource, discard_damaged, fill
from kdiga.teachers.store import ELSEWHERE, StoreShard
from kdiga.training.runtime import device_by_name
from kdiga.training.teacher_sources import REMEDY, conditions, live_source
from kdiga.workflows.prepare import PreparedRun, prepare

MARGIN = 2**20  # bytes for manifest, records and locks


@dataclass(frozen=True)
class CachePlan:
    """A recipe's store before it is filled."""

    run: PreparedRun  # recipe with a section ``cache``, with its data and models
    store: Store  # nothing is written yet
    overwrite: bool  # whether to replace the content of the folder

    @property
    def size(self) -> int:
        """The size of the whole store, in bytes."""
        return sum(map(self.store.bytes_of, self.store.shards))

    @property
    def missing(self) -> Sequence[StoreShard]:
        """The shards to write."""
        return self.store.shards if self.overwrite else self.store.missing()


@dataclass(frozen=True)
class CacheAgreement:
    """The differences between a store and the live teacher on one batch, as training reads it."""

    logits: float  # largest difference of a row over the row's largest magnitude, the maximum over rows
    gradients: float | None  # the same for gradients; None for a store of logits


def plan_cache(run: PreparedRun, *, overwrite: bool = False) -> CachePlan:
    """Return the plan of a recipe's store, after all checks that are possible before the store is filled.

    Raises:
        InputError: If the recipe has no section ``cache``, the folder holds a store of something else, or the disk has
            too little space; the message has the numbers.
    """
    cache, teacher = run.recipe.cache, run.models.teacher
    if cache is None:
        raise InputError("the recipe has no section cache; add `cache: {folder: ...}`, or --set cache.folder=DIR.")
    if teacher is None:
        raise InputError("the recipe has no teacher, so there is nothing to store; add a section teacher.")
    folder, manifest = Path(cache.folder), _manifest(run.recipe, cache, teacher, _stored_images(run))
    there = None if overwrite else Manifest.read(folder)
    if there is not None:
        there.check(manifest.wanted(), folder, ELSEWHERE)
        manifest = there  # it can hold gradients that this recipe does not need
    plan = CachePlan(run, Store(folder, manifest), overwrite)
    _check_room(plan)
    return plan


def stored_teacher(run: PreparedRun) -> CachedTeacher | None:
    """Return the stored teacher of a recipe with a section ``cache``; None without it.

    Raises:
        InputError: If the store is missing, incomplete or damaged, or holds something else; the message has both
            values.
    """
    cache, teacher = run.recipe.cache, run.models.teacher
    if cache is None or teacher is None:
        return None
    folder = Path(cache.folder)
    wanted = _manifest(run.recipe, cache, teacher, _stored_images(run)).wanted()
    Store.open(folder).manifest.check(wanted, folder, REMEDY)
    return CachedTeacher.open(folder)


def _stored_images(run: PreparedRun) -> ImageSet | FileSet:
    if isinstance(run.data.train, MixedSet):
        raise InputError("a teacher cache holds no signals of extra training images; leave out data.extra or cache.")
    train = run.train
    assert isinstance(train, (ImageSet, FileSet))
    return train


def _manifest(recipe: Recipe, cache: CacheConfig, teacher: Classifier, train: ImageSet | FileSet) -> Manifest:
    asked = conditions(train, recipe.method.needs, recipe.training)
    augments = augmentation_by_name(recipe.training.augment, train.image_size) != augmentation_by_name("none", 1)
    return Manifest(
        teacher=fingerprint_of_model(teacher),
        architecture=architecture_of(teacher),
        views=cache.views if augments else 1,
        dtype=cache.dtype,
        downsample=cache.downsample,
        shard_examples=cache.shard_examples,
        batch_size=min(recipe.training.batch_size, len(train)),
        device=device_by_name(recipe.training.device).type,
        version=provenance()["versions"]["kdiga"],
        **asked,
    )


def _check_room(plan: CachePlan) -> None:
    needed, folder = sum(map(plan.store.bytes_of, plan.missing)), plan.store.folder
    place = next(existing for existing in (folder, *folder.absolute().parents) if existing.is_dir())
    free = shutil.disk_usage(place).free
    if needed and needed + MARGIN > free:
        raise InputError(
            f"the teacher cache needs {format_bytes(needed)} more in {str(folder)!r} and {format_bytes(free)} are "
            "free; choose another cache.folder, fewer cache.views, cache.dtype int8, or cache.downsample 2."
        )


def format_bytes(size: int) -> str:
    """Return a number of bytes as text.

    >>> format_bytes(1_290_000)
    '1.3 MB'
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.1f} kB"


def compare_with_live(plan: CachePlan) -> CacheAgreement:
    """Compare a filled store with the live teacher on training's first batch."""
    settings, manifest = plan.run.recipe.training, plan.store.manifest
    source = _source(plan.run, plan.store)
    feed = feed_of(
        source.data,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=source.augmentation,
        device=source.data.device,
        views=manifest.views,
    )
    batch = next(feed.epoch(0))
    live, stored = source.teach(batch), CachedTeacher(plan.store, manifest.gradient_of is not None)(batch)
    gradients = None
    if live.input_gradient is not None and stored.input_gradient is not None:
        gradients = largest_error(stored.input_gradient, live.input_gradient)
    return CacheAgreement(largest_error(stored.logits, live.logits), gradients)


def largest_error(stored: torch.Tensor, live: torch.Tensor) -> float:
    """Return the largest difference of a row over the live row's largest magnitude, the maximum over rows."""
    difference, size = (one.float().flatten(1).abs().amax(1) for one in (stored - live, live))
    return float(torch.where(difference > 0, difference / size, 0.0).max())


def fill_cache(plan: CachePlan, *, workers: int = 1, on_shard: OnShard | None = None) -> Sequence[str]:
    """Fill the missing shards of a store, and return which shards were damaged and are filled again.

    With several processes from a launcher, every process makes the call; they share the shards. One worker is this
    process; several share its threads.

    Raises:
        StoreFullError: If the disk is full; the shards so far stay.
        WorkersEndedError: If a worker was killed.
        InputError: If the store cannot be written, a signal is not finite, or there are several workers in the
            processes of a launcher.
    """
    if workers > 1:
        check_started_once("a cache with several workers", "or leave out --workers")
    process_group = ProcessGroup.connect(plan.run.device)
    folder, manifest = plan.store.folder, plan.store.manifest
    store = process_group.run_on_first(lambda: Store.create(folder, manifest, overwrite=plan.overwrite))
    damaged = process_group.run_on_first(
        lambda: [f"{store.path(shard)} {problem}" for shard, problem in discard_damaged(store)]
    )
    workers = max(1, min(workers, len(store.missing())))
    if workers == 1:
        fill(store, _source(plan.run, store), on_shard)
        return damaged
    threads = max(1, torch.get_num_threads() // workers)
    with LocalExecutor(workers) as executor:
        calls = [executor.submit(_fill_in_worker, plan.run.recipe, folder, threads) for _ in range(workers)]
        _wait_for_workers(store, calls, on_shard)
    return damaged


def _source(run: PreparedRun, store: Store) -> TeacherSource:
    """Return the live teacher, as training asks it, with the images that the store is about."""
    assert run.models.teacher is not None  # a plan has checked it
    return live_source(run.models.teacher, _stored_images(run), store.manifest.gradient_of, run.recipe.training)


def _fill_in_worker(recipe: Recipe, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    store = Store.open(folder)
    fill(store, _source(prepare(recipe), store))


def _wait_for_workers(store: Store, calls: Sequence[Future[None]], on_shard: OnShard | None) -> None:
    """Report the shards that appear until all workers have ended, and raise the error of a worker."""
    there = {shard for shard in store.shards if store.is_complete(shard)}
    left = set(calls)
    while left:
        left = wait(left, POLL).not_done
        for shard in store.shards:
            if shard not in there and store.is_complete(shard):
                there.add(shard)
                if on_shard is not None:
                    on_shard(shard.name, len(there), len(store.shards))
    errors = [error for call in calls if (error := call.exception()) is not None]
    for error in errors:
        if not isinstance(error, WorkerLostError):
            raise error
    if store.missing():
        raise WorkersEndedError(
            f"workers ended early ({', '.join(map(str, errors))}); perhaps memory ran out. Finished shards are "
            "saved, and the same command continues, with fewer --workers if necessary."
        )
