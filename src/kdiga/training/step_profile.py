"""Where the time and memory of a run go: a few steps of it, taken apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from kdiga.data import Feed
from kdiga.gradients.routes import Exact, Route, route_by_name
from kdiga.methods import Method
from kdiga.methods.context import Teacher
from kdiga.model_state import seeded
from kdiga.stopwatch import Stopwatch
from kdiga.training.autotune import Choice, rehearsal, resolve_settings
from kdiga.training.peak_memory import peak_bytes
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper
from kdiga.types import Batch, ThreatModel

SECTIONS = ("data", "teacher", "student", "attack", "alignment", "backward", "optimizer", "loss")
"""What a step is divided into: making the batch; the teacher; the student's forward passes outside
attacks; attacks; forming input gradients and, on the finite-difference routes, their probes; the backward pass to
the parameters, on the exact route through the input gradient as well; the optimiser; the rest of the objective."""

WARM_UP = 2


@dataclass(frozen=True)
class StepProfile:
    """What one step costs.

    Args:
        label: of the variant.
        settings: that it ran with.
        seconds: a step, the median; taken without the stopwatch.
        spread: the fastest and the slowest step, in seconds.
        sections: seconds a step by section, the mean; measured apart, so their sum differs a little.
        peak_bytes: most memory a step held beyond what is held between steps.
        examples_per_second: of training.
        minutes: projected for all steps of the run, without validation.
    """

    label: str
    settings: TrainingSettings
    seconds: float
    spread: tuple[float, float]
    sections: dict[str, float]
    peak_bytes: int
    examples_per_second: float
    minutes: float


@dataclass(frozen=True)
class ProfiledRun:
    """A run to be profiled.

    Args:
        student: copied for every variant.
        teachers: as :class:`Stepper` takes them; one that is trained along is copied.
        method: of the run.
        threat: of the run.
        feed: of the run.
        epochs: of the run.
    """

    student: nn.Module
    teachers: Sequence[nn.Module | Teacher]
    method: Method
    threat: ThreatModel
    feed: Feed
    epochs: int

    def profile(self, label: str, settings: TrainingSettings, *, steps: int = 5) -> StepProfile:
        """Return what a step costs with these settings.

        Args:
            label: of the variant.
            settings: with nothing on "auto".
            steps: measured with and without the stopwatch, after warming up.
        """
        stepper, batches = self._stepper(settings), self._batches()
        device = stepper.runtime.device
        with seeded(0):
            times = _times(stepper, batches, steps)
            peak = peak_bytes(lambda: stepper.take(next(batches), 0), device)
            watch = Stopwatch(torch.cuda.synchronize if device.type == "cuda" else lambda: None)
            stepper.watch = watch
            for number in range(steps):
                with watch("data"):
                    batch = next(batches)
                stepper.take(batch, number)
        seconds = statistics.median(times)
        return StepProfile(
            label,
            settings,
            seconds,
            (min(times), max(times)),
            {name: watch.seconds[name] / steps for name in SECTIONS},
            peak,
            settings.batch_size / seconds,
            self._steps * seconds / 60,
        )

    def seconds(self, settings: TrainingSettings, *, steps: int = 5) -> float:
        """Return the seconds of a step, the median, and take nothing apart, which costs far more than the steps.

        Args:
            settings: with nothing on "auto".
            steps: measured, after warming up.
        """
        stepper, batches = self._stepper(settings), self._batches()
        with seeded(0):
            return statistics.median(_times(stepper, batches, steps))

    def auto_route(self, settings: TrainingSettings) -> Choice:
        """Return the route that "auto" takes, and why.

        Args:
            settings: with nothing else on "auto".
        """
        asked, needs = replace(settings, route="auto"), self.method.needs
        with seeded(settings.seed, -1):
            found = resolve_settings(asked, needs, self.student, self.teachers, self._build, self.feed, self._steps)
        return found[1]["route"]

    @property
    def _steps(self) -> int:
        return len(self.feed) * self.epochs

    def _build(
        self, student: nn.Module, teachers: Sequence[nn.Module | Teacher], settings: TrainingSettings, route: Route
    ) -> Stepper:
        return Stepper(student, teachers, self.method, self.threat, settings, route, steps=self._steps)

    def _stepper(self, settings: TrainingSettings) -> Stepper:
        needs = self.method.needs
        route = route_by_name(settings.route, settings.probe) if needs.student_gradient == "differentiable" else Exact()
        return rehearsal(self._build, needs, self.student, self.teachers, settings, route)

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self.feed.epoch(0)


def variants(settings: TrainingSettings, method: Method, *, compiled: bool) -> dict[str, TrainingSettings]:
    """Return what a run is profiled as: every route it could take, in either precision, and compiled if asked for.

    Args:
        settings: of the run, with nothing on "auto" but the route.
        method: of the run; only one that trains through an input gradient has routes.
        compiled: also with ``compile``.
    """
    routed = method.needs.student_gradient == "differentiable"
    routes = ("exact", "finite-difference", "one-sided") if routed else (None,)
    found: dict[str, TrainingSettings] = {}
    for compile in (False, True) if compiled else (False,):
        for precision in ("fp32", "bf16"):
            for route in routes:
                label = " ".join([*([route] if route else []), precision, *(["compiled"] if compile else [])])
                found[label] = replace(settings, route=route or "exact", precision=precision, compile=compile)
    return found


def _times(stepper: Stepper, batches: Iterator[Batch], steps: int) -> list[float]:
    return [_timed(stepper, batches, number) for number in range(WARM_UP + steps)][WARM_UP:]


def _timed(stepper: Stepper, batches: Iterator[Batch], number: int) -> float:
    begun = time.perf_counter()
    stepper.take_and_wait(next(batches), number)  # images on disk may have to be waited for
    return time.perf_counter() - begun
