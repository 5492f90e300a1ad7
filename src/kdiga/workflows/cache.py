"""Recipes with a section ``cache``: what their store holds, how large it is, whether it is the right one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kdiga.data import DataSet, FileSet, ImageSet, MixedSet, augmentation_by_name, feed_of, split
from kdiga.errors import InputError
from kdiga.models import Classifier
from kdiga.recipes.schema import CacheConfig, Recipe
from kdiga.runs.fingerprints import architecture_of, fingerprint_of_model
from kdiga.runs.provenance import provenance
from kdiga.teachers import CachedTeacher, Manifest, Store
from kdiga.teachers.store import ELSEWHERE, StoreShard
from kdiga.training.cached_teachers import REMEDY, conditions, live_source
from kdiga.training.runtime import device_by_name
from kdiga.workflows.train import build_models

MARGIN = 2**20  # bytes for manifest, records and locks


@dataclass(frozen=True)
class CachePlan:
    """What filling a recipe's store means.

    Args:
        recipe: with ``cache``.
        folder: of the store.
        train: the images that the student trains on.
        teacher: live.
        store: as it will be; nothing is written yet.
        overwrite: what is in the folder is replaced.
    """

    recipe: Recipe
    folder: Path
    train: ImageSet | FileSet
    teacher: Classifier
    store: Store
    overwrite: bool

    @property
    def size(self) -> int:
        """Bytes of the whole store."""
        return sum(map(self.store.bytes_of, self.store.shards))

    @property
    def missing(self) -> Sequence[StoreShard]:
        """The shards that are to be written."""
        return self.store.shards if self.overwrite else self.store.missing()


@dataclass(frozen=True)
class CacheAgreement:
    """How a store compares with the live teacher on one batch, as training reads it.

    Args:
        logits: largest difference of a row over its largest magnitude; the largest of all rows.
        gradients: the same; None for a store of logits.
    """

    logits: float
    gradients: float | None


def plan_cache(recipe: Recipe, data: DataSet, *, overwrite: bool = False) -> CachePlan:
    """Check everything about a recipe's store that can be checked before it is filled.

    Args:
        recipe: with ``cache``.
        data: the recipe's.
        overwrite: a store of something else may be replaced.

    Raises:
        InputError: if the recipe has no ``cache``, the folder holds a store of something else, or the disk has no
            room; it names the numbers.
    """
    cache = recipe.cache
    if cache is None:
        raise InputError("the recipe has no section cache; add `cache: {folder: ...}`, or --set cache.folder=DIR.")
    teacher = build_models(recipe, data).teacher
    if teacher is None:
        raise InputError("the recipe has no teacher, so there is nothing to store; add a section teacher.")
    train = train_part(recipe, data)
    folder = Path(cache.folder)
    manifest = _manifest(recipe, cache, teacher, train)
    there = None if overwrite else Manifest.read(folder)
    if there is not None:
        there.check(manifest.wanted(), folder, ELSEWHERE)
        manifest = there  # which may hold gradients that this recipe does not ask for
    plan = CachePlan(recipe, folder, train, teacher, Store(folder, manifest), overwrite)
    _check_room(plan)
    return plan


def compare_with_live(plan: CachePlan) -> CacheAgreement:
    """Compare a filled store with the live teacher on training's first batch."""
    settings, manifest = plan.recipe.training, plan.store.manifest
    source = live_source(plan.teacher, plan.train, manifest.gradient_of, settings)
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
    """Return the largest difference of a row over the live row's largest magnitude, and of these the largest."""
    difference, size = (one.float().flatten(1).abs().amax(1) for one in (stored - live, live))
    return float(torch.where(difference > 0, difference / size, 0.0).max())


def stored_teacher(recipe: Recipe, cache: CacheConfig, teacher: Classifier, data: DataSet) -> CachedTeacher:
    """Return a recipe's stored teacher.

    Args:
        recipe: with ``cache``.
        cache: its section.
        teacher: live; only to tell whether the store is of it.
        data: the recipe's.

    Raises:
        InputError: if the store is missing, incomplete or damaged, or holds something else; it names both values.
    """
    folder = Path(cache.folder)
    wanted = _manifest(recipe, cache, teacher, train_part(recipe, data)).wanted()
    Store.open(folder).manifest.check(wanted, folder, REMEDY)
    return CachedTeacher.open(folder)


def train_part(recipe: Recipe, data: DataSet) -> ImageSet | FileSet:
    """Return the images that a run trains on: what it does not hold out for validation."""
    if isinstance(data.train, MixedSet):
        raise InputError("a teacher cache holds no signals of extra training images; leave out data.extra or cache.")
    return split(data.train, recipe.training.validation_share, recipe.training.seed)[0]


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
    needed = sum(map(plan.store.bytes_of, plan.missing))
    place = next(folder for folder in (plan.folder, *plan.folder.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed and needed + MARGIN > free:
        raise InputError(
            f"the teacher cache needs {format_bytes(needed)} more in {str(plan.folder)!r} and {format_bytes(free)} are "
            "free; choose another cache.folder, fewer cache.views, cache.dtype int8, or cache.downsample 2."
        )


def format_bytes(size: int) -> str:
    """Return a number of bytes for people.

    >>> in_words(1_290_000)
    '1.3 MB'
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.1f} kB"
