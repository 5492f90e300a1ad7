"""Where the time and memory of a run go: a few of its steps, measured by sections."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from kdiga.data import Feed
from kdiga.gradients.routes import Exact, route_by_name
from kdiga.methods import Method
from kdiga.model_state import seeded
from kdiga.stopwatch import Stopwatch
from kdiga.training.autotune import (
    Choice,
    StepKinds,
    mean_seconds,
    resolve_settings,
    step_kinds,
    time_steps,
    trial_stepper,
)
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.types import Batch

SECTIONS = ("data", "teacher", "student", "attack", "alignment", "backward", "optimizer", "loss")
"""The sections of a step: making the batch; the teacher; the student's forward passes outside attacks; attacks; input
gradients and, on the finite-difference routes, their probes; the backward pass to the parameters, on the exact route
through the input gradient, too; the optimiser; the rest of the objective."""


@dataclass(frozen=True)
class StepProfile:
    """The cost of a step.

    Args:
        label: Name of the variant.
        settings: Settings of the variant.
        seconds: Mean duration of the run's steps, from the median of each kind, without the stopwatch.
        spread: Duration of the fastest and the slowest step of any kind, in seconds.
        sections: Mean seconds a step by section, from other steps, so that their sum differs a little.
        peak_bytes: Largest memory of a step, beyond the memory between steps.
        examples_per_second: Examples of training a second.
        minutes: Estimate for all steps of the run, without validation.
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
    """A run to profile.

    Args:
        task: Models, method and threat model; every variant uses copies of the models.
        feed: Batches of the run.
        epochs: Number of epochs of the run.
    """

    task: TrainingTask
    feed: Feed
    epochs: int

    def profile(self, label: str, settings: TrainingSettings, *, steps: int = 5) -> StepProfile:
        """Return the cost of a step with these settings, from a number of steps of each kind."""
        stepper, batches = self._stepper(settings), self._batches()
        device, sections = stepper.runtime.device, dict[str, float]()

        def take(number: int) -> None:
            with stepper.watch("data"):
                batch = next(batches)
            stepper.take(batch, number)

        with seeded(0):
            times = self._times(stepper, batches, steps)
            peak = max(peak_bytes(partial(take, number), device) for number in self._kinds)
            for number, share in self._kinds.items():
                stepper.watch = watch = Stopwatch(torch.cuda.synchronize if device.type == "cuda" else lambda: None)
                for _ in range(steps):
                    take(number)
                for name in SECTIONS:
                    sections[name] = sections.get(name, 0.0) + share * watch.seconds[name] / steps
        seconds, every = mean_seconds(times, self._kinds), list(chain(*times.values()))
        return StepProfile(
            label,
            settings,
            seconds,
            (min(every), max(every)),
            sections,
            peak,
            settings.batch_size / seconds,
            self._steps * seconds / 60,
        )

    def seconds(self, settings: TrainingSettings, *, steps: int = 5) -> float:
        """Return the mean seconds of a step, without sections and memory, which cost far more than the steps."""
        with seeded(0):
            return mean_seconds(self._times(self._stepper(settings), self._batches(), steps), self._kinds)

    def auto_route(self, settings: TrainingSettings) -> Choice:
        """Return the route for "auto", and the reason."""
        with seeded(settings.seed, -1):
            _, choices = resolve_settings(replace(settings, route="auto"), self.task, self.feed, self._steps)
        return choices["route"]

    @property
    def _steps(self) -> int:
        return len(self.feed) * self.epochs

    @cached_property
    def _kinds(self) -> StepKinds:
        return step_kinds(self.task.method, self._steps)

    def _times(self, stepper: Stepper, batches: Iterator[Batch], steps: int) -> dict[int, list[float]]:
        # With the batch: a step may have to wait for images on disk.
        return time_steps(lambda number: stepper.take_and_wait(next(batches), number), self._kinds, steps)[1]

    def _stepper(self, settings: TrainingSettings) -> Stepper:
        routed = self.task.method.needs.student_gradient == "differentiable"
        route = route_by_name(settings.route, settings.probe) if routed else Exact()
        return trial_stepper(self.task, settings, route, self._steps)

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self.feed.epoch(0)


def variants(settings: TrainingSettings, method: Method, *, compiled: bool) -> dict[str, TrainingSettings]:
    """Return the variants of a run to profile: every possible route, both precisions, and optionally compiled.

    Args:
        settings: Settings of the run, without "auto" except for the route.
        method: Method of the run; only a method that trains through an input gradient has routes.
        compiled: Whether to add compiled variants.
    """
    routed = method.needs.student_gradient == "differentiable"
    routes = ("exact", "finite-difference", "one-sided") if routed else (None,)
    found: dict[str, TrainingSettings] = {}
    for compile, precision, route in itertools.product(
        (False, True) if compiled else (False,), ("fp32", "bf16"), routes
    ):
        label = " ".join([*([route] if route else []), precision, *(["compiled"] if compile else [])])
        found[label] = replace(settings, route=route or "exact", precision=precision, compile=compile)
    return found


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the largest number of bytes that a step allocates at a time, beyond the allocated bytes before it.

    On a CUDA device the allocator counts them. On a CPU they come from all allocations and releases that PyTorch's
    profiler reports, which include temporary buffers of kernels.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    )
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak
