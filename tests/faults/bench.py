"""A folder in which commands are disturbed and then continued, beside what they come to undisturbed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.jobs import Job, prepare
from tests.faults.warm import Process, Warm

TRACES = ("Traceback", "Error:", "terminate called")


@dataclass
class Whole:
    """A job that nothing disturbed.

    Args:
        answer: that it came to.
        seconds: that it took.
    """

    answer: Any
    seconds: float


@dataclass
class Bench:
    """Where it happens.

    Args:
        folder: empty.
        warm: starts the commands.
    """

    folder: Path
    warm: Warm
    _whole: dict[str, Whole] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        prepare(self.folder, self.warm)

    def whole(self, job: Job) -> Whole:
        """Return what a job comes to undisturbed; it is run once."""
        if job.name not in self._whole:
            out, begun = whole_folder(job), time.monotonic()
            finished_well(self.warm.run(job.arguments(out), self.folder))
            self._whole[job.name] = Whole(job.answer(self.folder / out), time.monotonic() - begun)
        return self._whole[job.name]

    def fresh(self) -> str:
        """Return a name for an output folder."""
        self._count += 1
        return f"out-{self._count}"

    def goes_on(self, job: Job, out: str, **fault: Any) -> None:
        """Check that the same command goes on to the same answer."""
        begun = job.go_on if (self.folder / out).exists() else ()
        finished_well(self.warm.run([*job.arguments(out), *begun], self.folder, **fault))
        assert job.answer(self.folder / out) == self.whole(job).answer, f"{job.name} came to another answer"


def whole_folder(job: Job) -> str:
    """Return the name of the output of a job that nothing disturbed."""
    return f"whole-{job.name.replace(' ', '-')}"


def finished_well(process: Process) -> None:
    """Check that a command ended with success."""
    assert process.wait() == 0, f"exit status {process.status}: {process.said[-2000:]}"


def told_in_a_line(process: Process, status: int | None, *words: str) -> None:
    """Check that a command ended with a status, None being 1 or 2, and with one line that holds some words."""
    found, accepted = process.wait(), (1, 2) if status is None else (status,)
    assert found in accepted, f"exit status {found}, not {accepted}: {process.said[-2000:]}"
    lines = [line for line in process.said.splitlines() if line.startswith("kdiga:")]
    assert len(lines) == 1, process.said[-2000:]
    assert not any(trace in process.said for trace in TRACES), process.said[-2000:]
    for word in words:
        assert word in lines[0], lines[0]
