"""A recipe's run, profiled: every route it could take, side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from kdiga.data import DataSet, ImageSetFeed, augmentation_by_name, feed_of, split
from kdiga.recipes.schema import Recipe
from kdiga.runs.provenance import provenance
from kdiga.training import TrainingSettings
from kdiga.training.autotune import Choice
from kdiga.training.runtime import device_by_name
from kdiga.training.step_profile import ProfiledRun, StepProfile, variants
from kdiga.training.teacher_sources import teachers_of
from kdiga.training.validation import Validator, validation_subset
from kdiga.workflows.cache import stored_teacher
from kdiga.workflows.train import build_models

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
    run = _Opened(recipe, data)
    settings, loaded_models = recipe.training, {"": run.loaded}
    if recipe.cache is not None and run.models.teacher is not None:
        stored, feed = stored_teacher(recipe, recipe.cache, run.models.teacher, data), run.loaded.feed
        seen = replace(feed, views=stored.store.manifest.views) if isinstance(feed, ImageSetFeed) else feed
        loaded_models = {"live ": run.loaded, "cached ": replace(run.loaded, teachers=[stored], feed=seen)}
    route = run.loaded.auto_route(run.plain)
    profiles = list[StepProfile]()
    todo = [
        (loaded_models[source], source + label, one)
        for source in loaded_models
        for label, one in variants(run.plain, recipe.method, compiled=compiled).items()
        # A store's signals are those of one precision.
        if source != "cached " or one.precision == settings.precision
    ]
    for done, (whose, label, one) in enumerate(todo):
        if on_variant is not None:
            on_variant(label, done, len(todo))
        profiles.append(whose.profile(label, one, steps=steps))
    validation = run.seconds_a_check() * checks_of(settings) / 60
    asked = (recipe.teacher, recipe.second_teacher)
    return {
        "method": recipe.method.info.name,
        "student": recipe.student.name,
        "teachers": [one.name for one in asked[: recipe.method.needs.teachers] if one is not None],
        "batch_size": settings.batch_size,
        "steps": len(run.loaded.feed) * settings.epochs,
        "route": route,
        "validation_minutes": validation,
        "whole_run": _whole_run(profiles, run.route(route), settings, validation),
        "variants": [_plain(one) for one in profiles],
        "provenance": provenance(run.device),
    }


class RunCost(NamedTuple):
    """What a run costs on the hardware at hand.

    Args:
        label: of what it would run as.
        seconds: a step.
        steps: an epoch.
        check_seconds: a check on validation images.
    """

    label: str
    seconds: float
    steps: int
    check_seconds: float


def run_cost(recipe: Recipe, data: DataSet, *, steps: int = 5) -> RunCost:
    """Measure a few steps of a recipe's run as it would be run, and a check. Its teacher is asked, stored or not.

    Args:
        recipe: of the run.
        data: of the recipe.
        steps: measured.

    Raises:
        InputError: as a run of the recipe would.
    """
    run = _Opened(recipe, data)
    route = run.route(run.loaded.auto_route(run.plain))
    offered = variants(run.plain, recipe.method, compiled=recipe.training.compile is True)
    wanted = {label: one for label, one in offered.items() if _would_run(one, route, recipe.training)}
    seconds = {label: run.loaded.seconds(one, steps=steps) for label, one in wanted.items()}
    best = min(seconds, key=seconds.__getitem__)
    return RunCost(best, seconds[best], len(run.loaded.feed), run.seconds_a_check())


def checks_of(settings: TrainingSettings) -> int:
    """Return how often a run is checked on validation images."""
    return -(-settings.epochs // settings.validate_every)


class _Opened:
    """A recipe's run, ready for its steps to be measured."""

    def __init__(self, recipe: Recipe, data: DataSet) -> None:
        self.recipe, self.models = recipe, build_models(recipe, data)
        settings, self.device = recipe.training, device_by_name(recipe.training.device)
        train, self.held_out = split(data.train, settings.validation_share, settings.seed)
        feed = feed_of(
            train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=self.device,
            augmentation=augmentation_by_name(settings.augment, train.image_size),
        )
        teachers = teachers_of(recipe.method, self.models.teacher, self.models.second_teacher)
        self.loaded = ProfiledRun(self.models.student, teachers, recipe.method, recipe.threat, feed, settings.epochs)
        self.plain = replace(
            settings, precision="fp32", channels_last=settings.channels_last is not False, compile=False
        )

    def route(self, auto: Choice) -> str | None:
        """Return the route of the run: the recipe's, else what "auto" takes; None where the method has none."""
        asked = self.recipe.training.route
        return auto["chosen"] if auto["chosen"] is None or asked == "auto" else asked

    def seconds_a_check(self) -> float:
        settings = self.recipe.training
        validator = Validator(
            validation_subset(self.held_out, settings.validation_examples).to(self.device),
            self.recipe.threat,
            settings.validation_steps,
            settings.validation_examples,
            settings.seed,
        )
        begun = time.perf_counter()
        validator(copy.deepcopy(self.models.student).to(self.device), 0)
        return time.perf_counter() - begun


def _would_run(one: TrainingSettings, route: str | None, asked: TrainingSettings) -> bool:
    """Return whether a variant is one that the run may be: on its route, in its precision, compiled or not."""
    return (
        (route is None or one.route == route)
        and asked.precision in ("auto", one.precision)
        and (asked.compile is not False or not one.compile)
    )


def _whole_run(
    profiles: Sequence[StepProfile], route: str | None, settings: TrainingSettings, validation: float
) -> dict[str, Any]:
    """Return the hours of the run on its route and in the precision that it would take; the fastest on "auto".

    Where its teacher's signals are stored, those of a run that reads them.
    """
    wanted = [one for one in profiles if _would_run(one.settings, route, settings)]
    stored = [one for one in wanted if one.label.startswith("cached ")]
    best = min(stored or wanted, key=lambda one: one.minutes)
    return {"label": best.label, "hours": (best.minutes + validation) / 60}


def _plain(one: StepProfile) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(one).items() if key != "settings"}
    return kept | {name: getattr(one.settings, name) for name in ("route", "precision", "compile")}
