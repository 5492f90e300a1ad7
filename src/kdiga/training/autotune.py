"""What a run leaves to be found out here and now: the route by trying, precision, layout and compiling by timing."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kdiga.data import Feed
from kdiga.errors import InputError, reason_of
from kdiga.gradients.routes import Exact, Route, route_by_name
from kdiga.gradients.student_pass import PassOptions, StudentPass
from kdiga.methods import Needs
from kdiga.methods.context import Teacher
from kdiga.model_state import seeded
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper
from kdiga.types import Batch

Choice = dict[str, Any]
"""``{"chosen": value, "why": sentence}``, with the timings where there were any."""

UNROUTED: Choice = {"chosen": None, "why": "the method does not train through an input gradient"}
WARM_UP, TIMED = 2, 5  # steps
WORTH_COMPILING = 180.0  # seconds of training below which compiling cannot pay for itself
Timed = Callable[[TrainingSettings], Callable[[], object]]
Build = Callable[[nn.Module, Sequence[nn.Module | Teacher], TrainingSettings, Route], Stepper]


def resolve_settings(
    settings: TrainingSettings,
    needs: Needs,
    student: nn.Module,
    teachers: Sequence[nn.Module | Teacher],
    build: Build,
    feed: Feed,
    steps: int,
    earlier: dict[str, Choice] | None = None,
) -> tuple[TrainingSettings, dict[str, Choice]]:
    """Return the settings with nothing on "auto" but the route's name, and by name what was chosen and why.

    Args:
        settings: as asked for.
        needs: of the method.
        student: of the run; trials are made with copies of it.
        teachers: of the run; one that is trained along is copied too.
        build: returns what takes the run's steps with other models, settings and route.
        feed: of the run.
        steps: of the run.
        earlier: choices of the interrupted run that is to be continued; taken as they are.
    """
    if earlier is not None:
        known = {name: one["chosen"] for name, one in earlier.items() if name != "route"}
        return replace(settings, **known), earlier
    batch = next(iter(feed.epoch(0)))
    route, choice = Exact(), UNROUTED
    if needs.student_gradient == "differentiable":
        trial = rehearsal(build, needs, student, teachers, _closed(settings), Exact())
        placed = replace(batch, images=trial.runtime.images(batch.images))
        route, choice = choose_route(trial.student, placed, needs, settings)

    def timed(candidate: TrainingSettings) -> Callable[[], object]:
        stepper, numbers = rehearsal(build, needs, student, teachers, candidate, route), itertools.count()
        return lambda: stepper.take_and_wait(batch, next(numbers))

    settings, choices = choose_settings(settings, steps, timed)
    return settings, choices | {"route": choice}


def rehearsal(
    build: Build,
    needs: Needs,
    student: nn.Module,
    teachers: Sequence[nn.Module | Teacher],
    settings: TrainingSettings,
    route: Route,
) -> Stepper:
    """Return what takes steps that leave student and teachers as they are: copies of all that would be trained."""
    copies = [copy.deepcopy(one) if needs.trains_teacher else one for one in teachers]
    stepper = build(copy.deepcopy(student), copies, settings, route)
    stepper.train_mode()
    return stepper


def choose_route(student: nn.Module, batch: Batch, needs: Needs, settings: TrainingSettings) -> tuple[Route, Choice]:
    """Return the named route; for "auto" exact wherever the student can be differentiated twice.

    Speed has no say: on ReLU networks the routes differ in kind.

    Args:
        student: in train mode, on its device; loses the parameter gradients it may hold.
        batch: two examples of it are looked at.
        needs: of the method, which trains through an input gradient.
        settings: of the run.

    Raises:
        InputError: if the exact route is asked for and the student cannot be differentiated twice.
    """
    if settings.route not in ("auto", "exact"):
        return route_by_name(settings.route, settings.probe), {"chosen": settings.route, "why": "asked for"}
    obstacle = _obstacle_to_double_backward(student, batch.first(2), needs)
    if obstacle is not None and settings.route == "exact":
        raise InputError(
            f"route was 'exact', and the student cannot be differentiated twice ({obstacle}); use route "
            "finite-difference, one-sided or auto."
        )
    if obstacle is None:
        return Exact(), {"chosen": "exact", "why": "a trial showed that the student can be differentiated twice"}
    route = route_by_name("finite-difference", settings.probe)
    return route, {"chosen": "finite-difference", "why": f"the student cannot be differentiated twice ({obstacle})"}


def _obstacle_to_double_backward(student: nn.Module, batch: Batch, needs: Needs) -> str | None:
    point = StudentPass(
        student,
        batch.images,
        batch.labels,
        PassOptions("differentiable", Exact(), needs.gradient_of, keep_statistics=True),
    )
    try:
        # Through the whole graph: asked for the parameters alone, PyTorch leaves out the branches of
        # operations that say they cannot be differentiated again, and gives part of the derivative.
        point.input_gradient.square().sum().backward()
    except (RuntimeError, NotImplementedError) as error:
        return reason_of(error)
    finally:
        student.zero_grad(set_to_none=True)
    return None


def choose_settings(settings: TrainingSettings, steps: int, timed: Timed) -> tuple[TrainingSettings, dict[str, Choice]]:
    """Replace every "auto" of layout, precision and compiling by what takes the fewer seconds here.

    Args:
        settings: of the run.
        steps: of the run; compiling has to pay for itself within them.
        timed: returns a function that takes one step of a copy of the run with these settings.

    Returns:
        Settings without "auto", and what was chosen with seconds a step by candidate.
    """
    choices: dict[str, Choice] = {}
    for name, candidates in (("channels_last", (True, False)), ("precision", ("fp32", "bf16"))):
        if getattr(settings, name) != "auto":
            continue
        trials = {value: replace(settings, compile=False, **{name: value}) for value in candidates}
        trials = {value: _closed(one) for value, one in trials.items()}
        seconds = {value: _seconds_a_step(timed(one))[1] for value, one in trials.items()}
        best = min(seconds, key=seconds.__getitem__)
        settings = replace(settings, **{name: best})
        choices[name] = {"chosen": best, "why": "fewest seconds a step", "seconds_a_step": _told(seconds)}
    if settings.compile == "auto":
        settings, choices["compile"] = _choose_compiling(settings, steps, timed)
    return settings, choices


def _choose_compiling(settings: TrainingSettings, steps: int, timed: Timed) -> tuple[TrainingSettings, Choice]:
    off, on = replace(settings, compile=False), replace(settings, compile=True)
    _, eager = _seconds_a_step(timed(off))
    if steps * eager < WORTH_COMPILING:
        why = f"the whole run takes about {steps * eager:.0f} s, and compiling takes longer than it could save"
        return off, {"chosen": False, "why": why, "seconds_a_step": _told({False: eager})}
    start, compiled = _seconds_a_step(timed(on))
    worth = start + steps * compiled < steps * eager
    why = f"compiling took {start:.0f} s, and {steps} steps {'win' if worth else 'do not win'} that back"
    told = {"chosen": worth, "why": why, "seconds_a_step": _told({False: eager, True: compiled})}
    return (on if worth else off), told


def _closed(settings: TrainingSettings) -> TrainingSettings:
    """Return settings that can be run while others are still open."""
    return replace(
        settings,
        precision="fp32" if settings.precision == "auto" else settings.precision,
        channels_last=True if settings.channels_last == "auto" else settings.channels_last,
        compile=False if settings.compile == "auto" else settings.compile,
    )


def _seconds_a_step(step: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the first steps together, and the median of the later ones."""
    with seeded(0):
        first = time.perf_counter()
        for _ in range(WARM_UP):
            step()
        start, seconds = time.perf_counter() - first, list[float]()
        for _ in range(TIMED):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
    return start, statistics.median(seconds)


def _told(seconds: dict[Any, float]) -> dict[str, float]:
    return {str(value): round(one, 5) for value, one in seconds.items()}
