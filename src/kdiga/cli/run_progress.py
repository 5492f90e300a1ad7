"""Progress of many runs: a bar on a terminal, a line a finished run in a log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kdiga.cli.printing import duration, say
from kdiga.errors import InterruptedRunError
from kdiga.experiments.board import RunBoard, RunSpec
from kdiga.experiments.engine import BoardProgress
from kdiga.experiments.failures import StoppedError

STOPPED = "interrupted; what is finished is kept, and the same command continues."


def announce(console: Console, command: str, what: str, board: RunBoard, out: Path) -> None:
    """Say what is going to be run, and that it may be stopped.

    Args:
        console: where to.
        command: that runs it.
        what: the runs are called.
        board: of them.
        out: their folder.
    """
    say(
        console,
        f"{command}: {len(board.run_specs)} {what}, {board.count()} finished, in {out}. Ctrl-C stops it and the same "
        "command continues it.",
    )


def planned(run_specs: Sequence[RunSpec], states: Sequence[str], out: Path) -> dict[str, Any]:
    """Return the runs of a dry run as plain data.

    Args:
        run_specs: the runs.
        states: of each, in a word.
        out: their folder.
    """
    runs = [
        {
            "folder": run_spec.folder,
            "kind": run_spec.kind,
            "method": run_spec.recipe.method.info.name,
            "epochs": run_spec.recipe.training.epochs,
            "seed": run_spec.recipe.training.seed,
            "needs": list(run_spec.needs),
            "state": state,
        }
        for run_spec, state in zip(run_specs, states, strict=True)
    ]
    return {"kind": "dry-run", "folder": str(out), "runs": runs}


class RunProgress:
    """Shows runs done and in all, which ones run, and how long the rest will take.

    Leaving it by Ctrl-C says how to go on.

    Args:
        console: where to.
        label: what is going on.
        outcome: says in a few words what a run has come to, by its folder.
    """

    def __init__(self, console: Console, label: str, outcome: Callable[[str], str]) -> None:
        self.console, self.label, self.outcome = console, label, outcome
        # Not Rich's own estimate, which looks back half a minute: a run takes longer.
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        self.task = self.bar.add_task(label, total=None, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if isinstance(error, KeyboardInterrupt):
            raise StoppedError(STOPPED) from None
        if isinstance(error, InterruptedRunError):  # whose own words speak of one run and of --resume
            raise InterruptedRunError(error.signal, STOPPED) from None

    def __call__(self, watch: BoardProgress) -> None:
        """Move the bar; tell of a run that has ended."""
        left = "" if watch.seconds_left is None else f"{duration(watch.seconds_left)} left"
        if watch.ended is not None:
            line = f"{watch.done}/{watch.total}  {watch.ended}  {self.outcome(watch.ended)}  {left}"
            self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
        shown = ", ".join(watch.running)
        self.bar.update(
            self.task, description=f"{self.label}  {shown}", completed=watch.done, total=watch.total, left=left
        )
