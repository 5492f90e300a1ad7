"""A recipe's run, profiled: every route it could take, side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from kdiga.config.caching import stored_teacher
from kdiga.config.run import build_models
from kdiga.config.schema import Recipe
from kdiga.data import DataSet, FileFeed, ImageSetFeed, augmentation_by_name, feed_of, split
from kdiga.provenance import provenance
from kdiga.training import TrainingSettings
from kdiga.training.profiling import StepProfile, Subject, variants
from kdiga.training.runtime import device_by_name
from kdiga.training.teaching import teachers_of
from kdiga.training.validation import Validator, looked_at

OnVariant = Callable[[str, int, int], None]


def profile_recipe(
    recipe: Recipe, data: DataSet, *, steps: int = 5, compiled: bool = False, on_variant: OnVariant | None = None
) -> dict[str, Any]:
    """Measure a few steps of a recipe's run, taken apart, on every route and in either precision.

    Nothing is trained or written. Bf16 and compiling are measured whatever the recipe says of them; the layout is the
    recipe's, channels_last where that is "auto".

    Args:
        recipe: of the run.
        data: of the recipe.
        steps: measured for each variant.
        compiled: also by ``torch.compile``, half a minute and more for each variant.
        on_variant: told of each variant, how many are done, and in all.

    Returns:
        dict: plain data: ``variants`` (seconds a step and by section, peak bytes, examples per second,
            projected minutes), ``whole_run`` (hours of the variant that a run would be, its checks included),
            ``route`` (what "auto" takes, and why), ``validation_minutes`` of the whole run, what ran, and where.

    Raises:
        InputError: as a run of the recipe would.
    """
    models = build_models(recipe, data)
    teachers = teachers_of(recipe.method, models.teacher, models.second_teacher)
    settings, device = recipe.training, device_by_name(recipe.training.device)
    train, held_out = split(data.train, settings.validation_share, settings.seed)
    feed = feed_of(
        train, batch_size=settings.batch_size, seed=settings.seed, device=device,
        augmentation=augmentation_by_name(settings.augment, train.image_size),
    )  # fmt: skip
    subject = Subject(models.student, teachers, recipe.method, recipe.threat, feed, settings.epochs)
    subjects = {"": subject}
    if recipe.cache is not None and models.teacher is not None:
        stored = stored_teacher(recipe, recipe.cache, models.teacher, data)
        seen = replace(feed, views=stored.store.manifest.views) if isinstance(feed, (ImageSetFeed, FileFeed)) else feed
        subjects = {"live ": subject, "cached ": replace(subject, teachers=[stored], feed=seen)}
    plain = replace(settings, precision="fp32", channels_last=settings.channels_last is not False, compile=False)
    route = subject.auto_route(plain)
    profiles = list[StepProfile]()
    todo = [
        (subjects[source], source + label, one)
        for source in subjects
        for label, one in variants(plain, recipe.method, compiled=compiled).items()
        # A store's signals are those of one precision.
        if source != "cached " or one.precision == settings.precision
    ]
    for done, (whose, label, one) in enumerate(todo):
        if on_variant is not None:
            on_variant(label, done, len(todo))
        profiles.append(whose.profile(label, one, steps=steps))
    validator = Validator(
        looked_at(held_out, settings.validation_examples).to(device),
        recipe.threat,
        settings.validation_steps,
        settings.validation_examples,
        settings.seed,
    )
    begun = time.perf_counter()
    validator(copy.deepcopy(models.student).to(device), 0)
    validation = (time.perf_counter() - begun) * -(-settings.epochs // settings.validate_every) / 60
    asked = (recipe.teacher, recipe.second_teacher)
    return {
        "method": recipe.method.info.name,
        "student": recipe.student.name,
        "teachers": [one.name for one in asked[: recipe.method.needs.teachers] if one is not None],
        "batch_size": settings.batch_size,
        "steps": len(feed) * settings.epochs,
        "route": route,
        "validation_minutes": validation,
        "whole_run": _whole_run(profiles, route["chosen"], settings, validation),
        "variants": [_plain(one) for one in profiles],
        "provenance": provenance(device),
    }  # fmt: skip


def _whole_run(
    profiles: Sequence[StepProfile], route: str | None, settings: TrainingSettings, validation: float
) -> dict[str, Any]:
    """Return the hours of the run on the route and in the precision that it would take; the fastest on "auto".

    Where its teacher's signals are stored, those of a run that reads them.
    """
    wanted = [
        one
        for one in profiles
        if (route is None or one.settings.route == route)
        and settings.precision in ("auto", one.settings.precision)
        and (settings.compile is not False or not one.settings.compile)
    ]
    stored = [one for one in wanted if one.label.startswith("cached ")]
    best = min(stored or wanted, key=lambda one: one.minutes)
    return {"label": best.label, "hours": (best.minutes + validation) / 60}


def _plain(one: StepProfile) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(one).items() if key != "settings"}
    return kept | {name: getattr(one.settings, name) for name in ("route", "precision", "compile")}
