"""Progress of training and of several jobs: a bar on a terminal, lines in a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kdiga.cli.printing import say
from kdiga.progress_bar import Bar
from kdiga.statistics import percent

if TYPE_CHECKING:
    from kdiga.training import EpochRecord


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


class JobProgress(Bar):
    """Shows how many of several jobs are done; in a log, a line a job."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, description=f"{self.label}  {what}", completed=done, total=total)
        if not self.console.is_interactive:
            say(self.console, f"{done}/{total}  {what}")
