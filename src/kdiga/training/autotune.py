"""The choice of "auto" settings: the route by a trial, and precision, layout and compiling by time measurements."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kdiga.data import Feed
from kdiga.gradients.routes import Exact, Route
from kdiga.methods import Combined, Method
from kdiga.model_state import seeded
from kdiga.training.distiller import Choice, choose_route
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask

UNROUTED: Choice = {"chosen": None, "why": "the method does not train through an input gradient"}
WARM_UP, TIMED = 2, 5  # steps of each kind
WORTH_COMPILING = 180.0  # seconds of training below which compiling cannot save time
MakeStep = Callable[[TrainingSettings], Callable[[int], object]]
StepKinds = Mapping[int, float]
"""The number of one step of each kind, and the share of a run's steps that are of its kind."""


def resolve_settings(
    settings: TrainingSettings,
    task: TrainingTask,
    feed: Feed,
    steps: int,
    earlier: dict[str, Choice] | None = None,
) -> tuple[TrainingSettings, dict[str, Choice]]:
    """Return the settings without "auto", except for the route, and each choice with its reason, by setting."""
    if earlier is not None:
        known = {name: one["chosen"] for name, one in earlier.items() if name != "route"}
        return replace(settings, **known), earlier
    batch = next(iter(feed.epoch(0)))
    route, choice = Exact(), UNROUTED
    if task.method.needs.student_gradient == "differentiable":
        trial = trial_stepper(task, _without_auto(settings), Exact(), steps)
        placed = replace(batch, images=trial.runtime.images(batch.images))
        score = task.method.needs.gradient_of
        route, choice = choose_route(trial.student, placed, score, settings.route, settings.probe)

    def make_step(candidate: TrainingSettings) -> Callable[[int], object]:
        stepper = trial_stepper(task, candidate, route, steps)
        return lambda number: stepper.take_and_wait(batch, number)

    settings, choices = choose_settings(settings, steps, step_kinds(task.method, steps), make_step)
    return settings, choices | {"route": choice}


def step_kinds(method: Method, steps: int) -> StepKinds:
    """Return the kinds of steps that cost different times in a run of a method.

    A kind is a step with or without an alignment (``align_every``), before or after a term begins (``begin``).
    """
    numbers = np.arange(steps)
    kinds = np.zeros_like(numbers)
    for one in (method.base, *method.added) if isinstance(method, Combined) else (method,):
        kinds = 2 * kinds + (numbers % getattr(one, "align_every", 1) == 0)
        kinds = 2 * kinds + (numbers / max(1, steps - 1) >= getattr(one, "begin", 0.0))
    _, first, counts = np.unique(kinds, return_index=True, return_counts=True)
    return {int(number): int(count) / steps for number, count in zip(first, counts, strict=True)}


def trial_stepper(task: TrainingTask, settings: TrainingSettings, route: Route, steps: int) -> Stepper:
    """Return a stepper on copies of the models, so that its steps do not change the run.

    The rate is constant and low, as at a run's start: a schedule ends with the run, which may be shorter than a trial.
    """
    constant = replace(settings, schedule="constant", lr=settings.lr / 25)
    stepper = Stepper(task.copy(), constant, route, steps=steps)
    stepper.train_mode()
    return stepper


def choose_settings(
    settings: TrainingSettings, steps: int, kinds: StepKinds, make_step: MakeStep
) -> tuple[TrainingSettings, dict[str, Choice]]:
    """Replace every "auto" of layout, precision and compiling by the fastest value.

    Returns:
        Settings without "auto", and the choices with the seconds of a step for each candidate.
    """
    choices: dict[str, Choice] = {}
    for name, candidates in (("channels_last", (True, False)), ("precision", ("fp32", "bf16"))):
        if getattr(settings, name) != "auto":
            continue
        trials = {value: replace(settings, compile=False, **{name: value}) for value in candidates}
        trials = {value: _without_auto(one) for value, one in trials.items()}
        seconds = {value: _seconds_a_step(make_step(one), kinds)[1] for value, one in trials.items()}
        best = min(seconds, key=seconds.__getitem__)
        settings = replace(settings, **{name: best})
        choices[name] = {"chosen": best, "why": "fewest seconds a step", "seconds_a_step": _rounded(seconds)}
    if settings.compile == "auto":
        settings, choices["compile"] = _choose_compiling(settings, steps, kinds, make_step)
    return settings, choices


def _choose_compiling(
    settings: TrainingSettings, steps: int, kinds: StepKinds, make_step: MakeStep
) -> tuple[TrainingSettings, Choice]:
    off, on = replace(settings, compile=False), replace(settings, compile=True)
    _, eager = _seconds_a_step(make_step(off), kinds)
    if steps * eager < WORTH_COMPILING:
        why = f"the whole run takes about {steps * eager:.0f} s, and compiling takes longer than it could save"
        return off, {"chosen": False, "why": why, "seconds_a_step": _rounded({False: eager})}
    start, compiled = _seconds_a_step(make_step(on), kinds)
    faster = start + steps * compiled < steps * eager
    why = f"compiling took {start:.0f} s, and {steps} steps {'win' if faster else 'do not win'} that back"
    choice = {"chosen": faster, "why": why, "seconds_a_step": _rounded({False: eager, True: compiled})}
    return (on if faster else off), choice


def _without_auto(settings: TrainingSettings) -> TrainingSettings:
    """Return settings for a trial, with a default for each "auto"."""
    return replace(
        settings,
        precision="fp32" if settings.precision == "auto" else settings.precision,
        channels_last=True if settings.channels_last == "auto" else settings.channels_last,
        compile=False if settings.compile == "auto" else settings.compile,
    )


def _seconds_a_step(step: Callable[[int], object], kinds: StepKinds) -> tuple[float, float]:
    """Return the seconds of the first steps together, and the mean of the later steps of a run."""
    with seeded(0):
        start, seconds = time_steps(step, kinds, TIMED)
    return start, mean_seconds(seconds, kinds)


def time_steps(step: Callable[[int], object], kinds: StepKinds, count: int) -> tuple[float, dict[int, list[float]]]:
    """Return the seconds of :data:`WARM_UP` steps of each kind together, and of ``count`` later steps of each kind.

    Args:
        step: Takes the step of a number.
        kinds: Kinds of steps; they take turns.
        count: Number of measured steps of each kind.
    """
    begin = time.perf_counter()
    for number in [*kinds] * WARM_UP:
        step(number)
    start, seconds = time.perf_counter() - begin, {number: list[float]() for number in kinds}
    for number in [*kinds] * count:
        begin = time.perf_counter()
        step(number)
        seconds[number].append(time.perf_counter() - begin)
    return start, seconds


def mean_seconds(seconds: Mapping[int, list[float]], kinds: StepKinds) -> float:
    """Return the mean of a run's steps, from the median of each kind."""
    return sum(share * statistics.median(seconds[number]) for number, share in kinds.items())


def _rounded(seconds: dict[Any, float]) -> dict[str, float]:
    return {str(value): round(one, 5) for value, one in seconds.items()}
