"""The cost of a recipe's run: a few steps of every variant, measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from kdiga.data import ImageSetFeed, augmentation_by_name, feed_of
from kdiga.recipes.schema import Recipe
from kdiga.runs.provenance import provenance
from kdiga.training import TrainingSettings
from kdiga.training.autotune import Choice
from kdiga.training.step_profile import ProfiledRun, StepProfile, variants
from kdiga.training.stepper import TrainingTask
from kdiga.training.teacher_sources import teachers_of
from kdiga.training.validation import Validator
from kdiga.workflows.cache import stored_teacher
from kdiga.workflows.prepare import PreparedRun

OnVariant = Callable[[str, int, int], None]


def profile_recipe(
    run: PreparedRun, *, steps: int = 5, compiled: bool = False, on_variant: OnVariant | None = None
) -> dict[str, Any]:
    """Measure a few steps of a recipe's run, by sections, on every route and in both precisions.

    Nothing is trained or written. Bf16 and compiling are measured independently of the recipe; the layout is the
    recipe's, or channels_last for "auto". Of a recipe with rounds every round counts as one with the recipe's teacher;
    where it has none, with a teacher like the student.

    Args:
        run: Recipe with its data and models.
        steps: Number of steps to measure for each variant and kind of step.
        compiled: Whether to measure ``torch.compile``, too: half a minute and more for each variant.
        on_variant: Called before each variant with its label, the number of finished variants, and of all variants.

    Returns:
        dict: Plain data: ``variants`` (seconds a step and by section, peak bytes, examples per second, estimated
            minutes), ``whole_run`` (hours of the run's variant, with its checks), ``route`` (the choice for "auto", and
            the reason), ``validation_minutes`` of the whole run, names of models and method, and the hardware.
    """
    measured, recipe, settings = _MeasuredRun(run), run.recipe, run.recipe.training
    live, stored = measured.profiled, stored_teacher(run)
    sources = {"": live}
    if stored is not None:
        views, feed = stored.store.manifest.views, live.feed
        feed = replace(feed, views=views) if isinstance(feed, ImageSetFeed) else feed
        cached = replace(live, task=replace(live.task, teachers=[stored]), feed=feed)
        sources = {"live ": live, "cached ": cached}
    route = live.auto_route(measured.plain)
    profiles, rounds = list[StepProfile](), recipe.all_epochs // settings.epochs
    todo = [
        (sources[source], source + label, one)
        for source in sources
        for label, one in variants(measured.plain, recipe.method, compiled=compiled).items()
        # A store has the signals of one precision.
        if source != "cached " or one.precision == settings.precision
    ]
    for done, (profiled, label, one) in enumerate(todo):
        if on_variant is not None:
            on_variant(label, done, len(todo))
        found = profiled.profile(label, one, steps=steps)
        profiles.append(replace(found, minutes=rounds * found.minutes))
    validation = measured.seconds_a_check() * checks_of(recipe) / 60
    asked = (recipe.teacher, recipe.second_teacher)
    return {
        "method": recipe.method.info.name,
        "student": recipe.student.name,
        "teachers": [one.name for one in asked[: recipe.method.needs.teachers] if one is not None],
        "batch_size": settings.batch_size,
        "steps": len(live.feed) * recipe.all_epochs,
        "route": route,
        "validation_minutes": validation,
        "whole_run": _whole_run(profiles, measured.route(route), settings, validation),
        "variants": [_plain(one) for one in profiles],
        "provenance": provenance(run.device),
    }


class RunCost(NamedTuple):
    """The cost of a run on the present hardware."""

    label: str  # variant of the run
    seconds: float  # seconds a step
    steps: int  # steps an epoch
    check_seconds: float  # seconds of a check on validation images


def run_cost(run: PreparedRun, *, steps: int = 5) -> RunCost:
    """Measure a few steps of a recipe's run, and a check. The teacher is a live one, even if there is a store."""
    measured, settings = _MeasuredRun(run), run.recipe.training
    route = measured.route(measured.profiled.auto_route(measured.plain))
    offered = variants(measured.plain, run.recipe.method, compiled=settings.compile is True)
    wanted = {label: one for label, one in offered.items() if _would_run(one, route, settings)}
    seconds = {label: measured.profiled.seconds(one, steps=steps) for label, one in wanted.items()}
    best = min(seconds, key=seconds.__getitem__)
    return RunCost(best, seconds[best], len(measured.profiled.feed), measured.seconds_a_check())


def checks_of(recipe: Recipe) -> int:
    """Return the number of a run's checks on validation images, in all rounds."""
    settings = recipe.training
    return recipe.all_epochs // settings.epochs * -(-settings.epochs // settings.validate_every)


class _MeasuredRun:
    def __init__(self, run: PreparedRun) -> None:
        self.run, settings = run, run.recipe.training
        feed = feed_of(
            run.train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=run.device,
            augmentation=augmentation_by_name(settings.augment, run.train.image_size),
        )
        teacher = run.models.teacher
        if teacher is None and run.recipe.rounds is not None:
            teacher = copy.deepcopy(run.models.student)  # as in every round but the first
        teachers = teachers_of(run.recipe.method, teacher, run.models.second_teacher)
        task = TrainingTask(run.models.student, teachers, run.recipe.method, run.recipe.threat)
        self.profiled = ProfiledRun(task, feed, settings.epochs)
        self.plain = replace(
            settings, precision="fp32", channels_last=settings.channels_last is not False, compile=False
        )

    def route(self, auto: Choice) -> str | None:
        """Return the route of the run: the recipe's, or the choice for "auto"; None if the method has no routes."""
        asked = self.run.recipe.training.route
        return auto["chosen"] if auto["chosen"] is None or asked == "auto" else asked

    def seconds_a_check(self) -> float:
        run = self.run
        validator = Validator.of(run.validation.to(run.device), run.recipe.threat, run.recipe.training)
        begin = time.perf_counter()
        validator(copy.deepcopy(run.models.student).to(run.device), 0)
        return time.perf_counter() - begin


def _would_run(one: TrainingSettings, route: str | None, asked: TrainingSettings) -> bool:
    """Return whether the run can be a variant: on its route, in its precision, compiled or not."""
    return (
        (route is None or one.route == route)
        and asked.precision in ("auto", one.precision)
        and (asked.compile is not False or not one.compile)
    )


def _whole_run(
    profiles: Sequence[StepProfile], route: str | None, settings: TrainingSettings, validation: float
) -> dict[str, Any]:
    """Return the hours of the run on its route and in its precision; for "auto" the fastest.

    With a store, the run reads the store.
    """
    wanted = [one for one in profiles if _would_run(one.settings, route, settings)]
    stored = [one for one in wanted if one.label.startswith("cached ")]
    best = min(stored or wanted, key=lambda one: one.minutes)
    return {"label": best.label, "hours": (best.minutes + validation) / 60}


def _plain(one: StepProfile) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(one).items() if key != "settings"}
    return plain | {name: getattr(one.settings, name) for name in ("route", "precision", "compile")}
