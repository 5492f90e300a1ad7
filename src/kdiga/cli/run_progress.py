"""What commands with many runs share: the list of a dry run, progress, and the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.distributed.launch import check_started_once
from kdiga.errors import InterruptedRunError, some
from kdiga.experiments.executors import ExecutorRequest
from kdiga.experiments.experiment import Experiment, StoppedError, describe_outcome
from kdiga.experiments.runner import BoardProgress
from kdiga.progress_bar import Bar, duration
from kdiga.workflows.prepare import load_recipe_data
from kdiga.workflows.requests import ReportedRunsRequest, RunsRequest

STOPPED = "interrupted. Finished work is saved. Run the same command again to continue."


def run_experiment(
    experiment: Experiment,
    request: RunsRequest,
    output: Output,
    show: Callable[[Output, dict[str, Any]], Path],
) -> None:
    """Make an experiment's runs with progress, or list them, or only report them, as requested.

    ``show`` prints the content of the result file, and returns the place of the results.
    """
    started = time.time()  # runs that failed before are tried again
    check_started_once(experiment.title, "with --workers N")
    reported = request if isinstance(request, ReportedRunsRequest) else ReportedRunsRequest()
    dry_run, report = reported.dry_run, reported.report
    console, executor = output.console, ExecutorRequest(request.executor, request.workers)
    data = load_recipe_data(experiment.run_specs[0].recipe.data)
    board = experiment.open(data, since=0.0 if report else started, look_only=dry_run)
    if dry_run:
        states = [experiment.shown_state(board, run_spec) for run_spec in board.run_specs]
        _print_runs(console, experiment, states)
        output.result(planned(experiment, states))
        return
    if report:
        content, failed = experiment.report(board, data), list[str]()
    else:
        say(
            console,
            f"{experiment.title}: {len(board.run_specs)} {experiment.noun}s, {board.count()} finished, in "
            f"{experiment.out}. Ctrl-C stops it; the same command continues it.",
        )
        with RunProgress(console, experiment.title, lambda folder: describe_outcome(board, folder)) as progress:
            content = experiment.run(board, data, request=executor, on_progress=progress, minutes=reported.stop_after)
        failed = board.folders("failed")
    output.result(content, show(output, content))
    experiment.check_none_failed(failed)


def planned(experiment: Experiment, states: Sequence[str]) -> dict[str, Any]:
    """Return the runs of a dry run as plain data."""
    runs = [
        {
            "folder": run_spec.folder,
            "kind": run_spec.kind,
            "method": run_spec.recipe.method.info.name,
            "epochs": run_spec.recipe.all_epochs,
            "seed": run_spec.recipe.training.seed,
            "needs": list(run_spec.needs),
            "state": state,
        }
        for run_spec, state in zip(experiment.run_specs, states, strict=True)
    ]
    return {"kind": "dry-run", "folder": str(experiment.out), "runs": runs}


def _print_runs(console: Console, experiment: Experiment, states: Sequence[str]) -> None:
    headings = (experiment.noun, "method", "epochs", "seed", "learns from", "and then", "state")
    rows = list[tuple[str, ...]]()
    for run_spec, state in zip(experiment.run_specs, states, strict=True):
        training, teacher = run_spec.recipe.training, run_spec.recipe.teacher
        then = [*(experiment.evaluation.attacks if run_spec.which else ())]
        row = (
            run_spec.folder,
            run_spec.recipe.method.info.name if run_spec.is_trained else "none",
            str(run_spec.recipe.all_epochs) if run_spec.is_trained else "0",
            str(training.seed),
            (", ".join(run_spec.needs) or ("" if teacher is None else teacher.name)) if run_spec.is_trained else "",
            ", ".join([*then, *(one.file.removesuffix(".json") for one in run_spec.after)]),
            state,
        )
        rows.append(row)
    show_table(console, headings, rows, words=headings)
    say(console, f"# {len(states)} {experiment.noun}s; would write to {experiment.out}")


class RunProgress(Bar):
    """Progress of many runs: a bar on a terminal, in a log a line with the outcome of a finished run.

    Leaving it by Ctrl-C says how to continue.
    """

    def __init__(self, console: Console, label: str, outcome: Callable[[str], str]) -> None:
        super().__init__(console, label, estimates=True)  # a run takes longer than the half minute of Rich's estimate
        self.outcome = outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt):
            raise StoppedError(STOPPED) from None
        if isinstance(error, InterruptedRunError):  # its message speaks of one run and of --resume
            raise InterruptedRunError(error.signal, STOPPED) from None

    def __call__(self, progress: BoardProgress) -> None:
        """Move the bar; print a line for a run that has ended."""
        left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
        if progress.ended is not None:
            line = f"{progress.done}/{progress.total}  {progress.ended}  {self.outcome(progress.ended)}  {left}"
            say(self.console, line.rstrip())
        running = some(progress.running, 4)
        self.bar.update(
            self.task, description=f"{self.label}  {running}", completed=progress.done, total=progress.total, left=left
        )
