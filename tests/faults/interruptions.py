"""Processes that are killed, told to end, started twice, or whose clock goes wrong."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from tests.faults.bench import Bench, finished_well, told_in_a_line
from tests.faults.jobs import Job

DAYS = 86400.0


def killed_at_a_moment(bench: Bench, job: Job, dice: Random) -> None:
    """SIGKILL at a random moment of the work, with all its workers; moments after its end do not count."""
    while True:
        out = bench.fresh()
        process = bench.warm.start(job.arguments(out), bench.folder)
        time.sleep(dice.uniform(0.02, bench.whole(job).seconds))
        process.send(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            break
        finished_well(process)
    bench.goes_on(job, out)


def killed_at_a_write(bench: Bench, job: Job, number: int, when: str) -> bool:
    """SIGKILL before or after a file is put in its place; return whether there were so many."""
    out = bench.fresh()
    process = bench.warm.run(job.arguments(out), bench.folder, die=[number, when])
    if process.status == 0:
        return False
    assert process.status == -signal.SIGKILL, process.said
    bench.goes_on(job, out)
    return True


def told_to_end(bench: Bench, job: Job, number: int, dice: Random) -> None:
    """SIGTERM or Ctrl-C at a random moment of the work: one line says how to go on."""
    while True:
        out = bench.fresh()
        process = bench.warm.start(job.arguments(out), bench.folder)
        while process.running() and not (bench.folder / out).exists():
            time.sleep(0.005)
        time.sleep(dice.uniform(0.0, bench.whole(job).seconds * 0.8))
        if process.running():
            os.kill(process.pid, number)  # it alone, as the system does; Ctrl-C in a terminal reaches workers as well
            if process.wait() != 0:
                break
    told_in_a_line(process, 128 + number, "same command", *job.go_on)
    bench.goes_on(job, out)


def started_twice(bench: Bench, job: Job) -> None:
    """Two processes at once on one folder: they share the work, or the second is refused."""
    out = bench.fresh()
    processes = [bench.warm.start(job.arguments(out), bench.folder) for _ in range(2)]
    statuses = sorted(process.wait() for process in processes)
    if job.go_on:
        assert statuses == [0, 2], [process.said for process in processes]
        told_in_a_line(next(process for process in processes if process.status), 2, out)
    else:
        for process in processes:
            finished_well(process)
    assert job.answer(bench.folder / out) == bench.whole(job).answer


def clock_moved(bench: Bench, job: Job, days: float, dice: Random) -> None:
    """Killed, and continued with a clock that went wrong in between, on files from another time."""
    out = bench.fresh()
    process = bench.warm.start(job.arguments(out), bench.folder, clock=-days * DAYS)
    time.sleep(dice.uniform(0.2, 0.8) * bench.whole(job).seconds)
    process.send(signal.SIGKILL)
    process.wait()
    moment = time.time() + days * DAYS
    for path in (bench.folder / out).rglob("*"):
        os.utime(path, (moment, moment))
    bench.goes_on(job, out, clock=days * DAYS)
