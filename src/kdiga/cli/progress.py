"""Progress with an ETA: a bar on a terminal, a line an epoch in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kdiga.cli.printing import duration, say
from kdiga.errors import printable

if TYPE_CHECKING:
    from kdiga.training import EpochRecord

LINE_EVERY = 60.0  # seconds, in a log


class Bar:
    """A bar that is drawn only on a terminal, and goes when it is done.

    ``left`` is the column with the time left, by default Rich's own estimate, which covers the last half minute.
    """

    def __init__(self, console: Console, label: str, left: TextColumn | None = None) -> None:
        self.console, self.label = console, printable(label)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            *((TextColumn("left"), TimeRemainingColumn()) if left is None else (left,)),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        self.task = self.bar.add_task(printable(label), total=None, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()


class TrainingProgress(Bar):
    """Shows steps, ETA, loss terms and validation accuracy of one run; with ``each_epoch``, a line an epoch."""

    def __init__(self, console: Console, label: str, epochs: int, *, each_epoch: bool = True) -> None:
        super().__init__(console, label)
        self.epochs, self.each_epoch = epochs, each_epoch

    def on_choice(self, name: str, choice: Mapping[str, Any]) -> None:
        """Say what was chosen before the first step, and why."""
        if choice["why"] != "asked for":
            say(self.console, f"{self.label}  {name}: {choice['chosen']}, {choice['why']}")

    def on_warning(self, message: str) -> None:
        """Say what is suspicious."""
        say(self.console, f"{self.label}  {message}", style="yellow")

    def on_step(self, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, total=total)

    def on_epoch(self, record: EpochRecord) -> None:
        """Show what the epoch came to."""
        terms = "  ".join(f"{name} {value:.3f}" for name, value in record.terms.items())
        checked = ""
        if record.clean is not None and record.robust is not None:
            checked = f"  validation clean {record.clean:.1%} PGD {record.robust:.1%}"
        if self.each_epoch:
            line = f"{self.label}  epoch {record.epoch + 1}/{self.epochs}  {terms} {checked}  {record.seconds:.1f} s"
            say(self.console, line)
        self.bar.update(self.task, description=f"{self.label}{checked}")


class EvaluationProgress(Bar):
    """Shows the current attack or measurement and its finished examples; in a log, a line a minute by the clock."""

    def __init__(self, console: Console, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, label)
        self.clock = clock
        self._task, self._since, self._first, self._printed = "", 0.0, 0, 0.0

    def __call__(self, attack: str, done: int, total: int) -> None:
        """Move the bar, or write a line where it is time for one."""
        if attack != self._task:
            # The rest of one task says nothing of the next one's pace.
            self.bar.reset(self.task)
            self._task, self._first = attack, done
            self._since = self._printed = self.clock()
        self.bar.update(self.task, description=f"{self.label}  {attack}", completed=done, total=total)
        now = self.clock()
        if self.console.is_interactive or now - self._printed < LINE_EVERY:
            return
        self._printed = now
        left = ""
        if done > self._first:
            left = f", {duration((now - self._since) * (total - done) / (done - self._first))} left"
        say(self.console, f"{self.label}  {attack} {done}/{total}{left}")


class JobProgress(Bar):
    """Shows how many of several jobs are done; in a log, a line a job."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, description=f"{self.label}  {what}", completed=done, total=total)
        if not self.console.is_interactive:
            say(self.console, f"{done}/{total}  {what}")
