"""Progress with the time left: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from kdiga.cli.printing import duration, say
from kdiga.errors import printable
from kdiga.statistics import percent

if TYPE_CHECKING:
    from kdiga.training import EpochRecord

LINE_EVERY = 30.0  # seconds, in a log


class Bar:
    """A bar that is drawn only on a terminal, and disappears at the end.

    The text in front of it is cut where the terminal is narrow; the time left never is. Without ``estimates``, the time
    left is Rich's estimate, from the last half minute; with it, a subclass sets the field ``left``.
    """

    def __init__(self, console: Console, label: str, *, estimates: bool = False) -> None:
        self.console, self.label = console, printable(label)
        left = (TextColumn("{task.fields[left]}", markup=False),)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *(left if estimates else (TimeRemainingColumn(), TextColumn("left"))),
            console=console,
            transient=True,
            expand=True,
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
        """Print what was chosen before the first step, and why."""
        if choice["why"] != "asked for":
            say(self.console, f"{self.label}  {name}: {choice['chosen']}, {choice['why']}")

    def on_warning(self, message: str) -> None:
        """Print a warning."""
        say(self.console, f"{self.label}  {message}", style="yellow")

    def on_step(self, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, total=total)

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the result of an epoch."""
        terms = "  ".join(f"{name} {value:.3f}" for name, value in record.terms.items())
        checked = ""
        if record.clean is not None and record.robust is not None:
            checked = f"  validation clean {percent(record.clean)} PGD {percent(record.robust)}"
        if self.each_epoch:
            line = f"{self.label}  epoch {record.epoch + 1}/{self.epochs}  {terms} {checked}  {record.seconds:.1f} s"
            say(self.console, line)
        self.bar.update(self.task, description=f"{self.label}{checked}")


class EvaluationProgress(Bar):
    """Shows the current attack or measurement, finished examples and time left; in a log, a line now and then."""

    def __init__(self, console: Console, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, label, estimates=True)
        self.clock = clock
        self._task, self._since, self._first, self._printed = "", 0.0, 0, clock()

    def __call__(self, attack: str, done: int, total: int) -> None:
        """Move the bar, or write a line where it is time for one."""
        if attack != self._task:
            # The rest of one task says nothing of the next one's pace.
            self.bar.reset(self.task)
            self._task, self._first = attack, done
            self._since = self.clock()
        now, left = self.clock(), ""
        if done > self._first:
            left = f"{duration((now - self._since) * (total - done) / (done - self._first))} left"
        self.bar.update(self.task, description=f"{attack}  {self.label}", completed=done, total=total, left=left)
        if self.console.is_interactive or now - self._printed < LINE_EVERY:
            return
        self._printed = now
        say(self.console, f"{self.label}  {attack} {done}/{total}{f', {left}' if left else ''}")


class JobProgress(Bar):
    """Shows how many of several jobs are done; in a log, a line a job."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, description=f"{self.label}  {what}", completed=done, total=total)
        if not self.console.is_interactive:
            say(self.console, f"{done}/{total}  {what}")
