"""Progress that survives a log file."""

from __future__ import annotations

import io

from rich.console import Console

from kdiga.progress_bar import TaskBar


def test_a_log_gets_lines_with_the_time_left():
    out, now = io.StringIO(), [0.0]
    progress = TaskBar(Console(file=out, width=100), "RUN", clock=lambda: now[0])
    with progress:
        for attack, second, done in (
            ("pgd-20", 0, 0),
            ("pgd-20", 59, 10),
            ("pgd-20", 61, 20),
            ("pgd-20", 100, 90),
            ("autoattack", 110, 0),
            ("autoattack", 171, 0),
            ("autoattack", 410, 25),
        ):
            now[0] = float(second)
            progress(attack, done, 100)
    assert out.getvalue().splitlines() == [
        "RUN  pgd-20 10/100, 9 min left",
        "RUN  pgd-20 90/100, 11 s left",
        "RUN  autoattack 0/100",
        "RUN  autoattack 25/100, 15 min left",
    ]


def test_a_terminal_gets_a_bar_and_no_lines():
    out = io.StringIO()
    with TaskBar(Console(file=out, width=100, force_terminal=True), "RUN") as progress:
        progress("pgd-20", 1, 10)
        progress("autoattack", 0, 10)
        assert progress.bar.tasks[0].completed == 0


def test_the_time_left_is_whole_in_80_columns():
    out, clock = io.StringIO(), iter([0.0, 0.0, 0.0, 30.0])
    label = "runs/" + "a-long-name-of-a-run/" * 5
    with TaskBar(Console(file=out, width=80, force_terminal=True), label, lambda: next(clock)) as progress:
        progress("autoattack", 0, 1000)
        progress("autoattack", 100, 1000)
        progress.bar.refresh()
    assert "100/1000" in out.getvalue()
    assert "4 min left" in out.getvalue()
