"""Progress of long work: a bar on a terminal or in a notebook; in a log, a line now and then if it is wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kdiga.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY = 30.0  # seconds, in a log
DRAW_EVERY = 0.2  # seconds, in a notebook

OnTask = Callable[[str, int, int], None]
"""Called with the task, and its finished and total amount."""


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_of(wanted: OnTask | bool | None, label: str) -> Generator[OnTask | None]:
    """Yield the function that work calls with its progress; None where nothing shows it.

    Args:
        wanted: The function itself; True for a bar, or lines in a log; False for none; None for a bar where stderr is
            a terminal or the code runs in a notebook.
        label: Text in front of the task.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    if callable(wanted):
        yield wanted
    elif wanted is not False and (display := _notebook()) is not None:
        with NotebookBar(display, label) as bar:
            yield bar
    elif wanted or (wanted is None and terminal):
        from rich.console import Console

        with TaskBar(Console(stderr=True, force_interactive=None if terminal else False), label) as bar:
            yield bar
    else:
        yield None


class Bar:
    """A bar that is drawn only on a terminal, and disappears at the end.

    The text in front of it is cut where the terminal is narrow; the time left never is. Without ``estimates``, the time
    left is Rich's estimate, from the last half minute; with it, a subclass sets the field ``left``.
    """

    def __init__(self, console: Console, label: str, *, estimates: bool = False) -> None:
        from rich import progress
        from rich.table import Column

        self.console, self.label = console, printable(label)
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            progress.BarColumn(bar_width=12),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            *([] if estimates else [progress.TimeRemainingColumn()]),
            progress.TextColumn("{task.fields[left]}" if estimates else "left", markup=False),
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


class TaskBar(Bar):
    """Shows the current task, its finished amount and the time left; in a log, a line now and then."""

    def __init__(self, console: Console, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, label, estimates=True)
        self.clock = clock
        self._task, self._since, self._first, self._printed = "", 0.0, 0, clock()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Move the bar, or write a line where it is time for one."""
        if task != self._task:
            # The rest of one task says nothing of the next one's pace.
            self.bar.reset(self.task)
            self._task, self._first = task, done
            self._since = self.clock()
        now, left = self.clock(), ""
        if done > self._first:
            left = f"{duration((now - self._since) * (total - done) / (done - self._first))} left"
        self.bar.update(self.task, description=f"{task}  {self.label}", completed=done, total=total, left=left)
        if self.console.is_interactive or now - self._printed < LINE_EVERY:
            return
        self._printed = now
        text = printable(f"{self.label}  {task} {done}/{total}{f', {left}' if left else ''}")
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class NotebookBar:
    """A bar in the output of a notebook's cell, which goes when it is done. Rich's needs ipywidgets."""

    def __init__(self, display: Any, label: str) -> None:
        self.label, self._display = label, display
        self._shown: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._shown = self._display.display(self._display.HTML(""), display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw("")

    def __call__(self, task: str, done: int, total: int) -> None:
        """Move the bar, a few times a second."""
        now = time.monotonic()
        if now - self._drawn >= DRAW_EVERY:
            self._drawn = now
            text = escape(f"{self.label}  {task} {done}/{total}")
            self._draw(f'<progress value="{done}" max="{total}"></progress> {text}')

    def _draw(self, html: str) -> None:
        self._shown.update(self._display.HTML(html))


def _notebook() -> Any:
    """Return IPython's module ``display`` if the code runs in a notebook, else None."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return ipython.display if getattr(shell, "kernel", None) is not None else None
