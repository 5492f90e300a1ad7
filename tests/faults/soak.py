"""Disturbs commands in every way we know and checks that each comes to the answer it would have come to.

    python -m tests.faults.soak [--seed 0] [--minutes 14] [--share 1.0]

A line a job and fault: how many were survived. Exit status 1 if anything was lost, hung or told by a traceback.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import disks
from tests.faults import interruptions as faults
from tests.faults.bench import Bench
from tests.faults.jobs import JOBS, Job
from tests.faults.warm import Warm

KILLS = 20  # of each job
SIZES = 12  # of a disk
WRITES = 10  # of which a process is killed before, and after


@dataclass(frozen=True)
class Trial:
    """One fault that happens to one job.

    Args:
        job: of it.
        fault: what kind it is, in words.
        happen: makes it happen and raises AssertionError if anything is lost.
    """

    job: Job
    fault: str
    happen: Callable[[], object]


def trials(bench: Bench, job: Job, dice: Random, share: float) -> Iterator[Trial]:
    """Yield every trial of a job, of the larger numbers only a share."""

    def several(number: int) -> range:
        return range(max(1, round(number * share * (1.0 if job.quick else 0.5))))

    for _ in several(KILLS):
        yield Trial(job, "kill -9 at a random moment", lambda: faults.killed_at_a_moment(bench, job, dice))
    for _ in several(WRITES):
        # A number below the least that a job makes; the early ones are the manifest, the recipe, the first states.
        number, when = dice.randrange(1, 12), dice.choice(("before", "after"))
        yield Trial(
            job,
            f"kill -9 {when} a file is replaced",
            lambda number=number, when=when: faults.killed_at_a_write(bench, job, number, when),
        )
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")):
        for _ in several(3):
            yield Trial(job, name, lambda number=number: faults.told_to_end(bench, job, number, dice))
    for _ in several(2):
        yield Trial(job, "started twice at once", lambda: faults.started_twice(bench, job))
    for days in (400.0, -400.0)[: len(several(2))]:
        yield Trial(job, "clock moved by 400 days", lambda days=days: faults.clock_moved(bench, job, days, dice))
    if disks.can_mount():
        yield from disk_trials(bench, job, dice, len(several(SIZES)))


def disk_trials(bench: Bench, job: Job, dice: Random, sizes: int) -> Iterator[Trial]:
    """Yield the trials that take a small disk: too small by anything from nearly all to nearly nothing."""
    needs = disks.pages_of(bench, job)
    for place in range(sizes):
        pages = max(1, round(needs * (place + dice.random()) / sizes))
        yield Trial(job, "disk full", lambda pages=pages: disks.full(bench, job, pages))
    yield Trial(job, "disk read-only before", lambda: disks.read_only(bench, job))
    yield Trial(job, "disk read-only afterwards", lambda: disks.read_only_after_a_start(bench, job))


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=14, help="begin nothing new after so many")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials")
    given = parser.parse_args()
    begun, lost, survived = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder, Warm() as warm:
        bench, dice = Bench(Path(folder), warm), Random(given.seed)
        planned = [trial for job in JOBS.values() for trial in trials(bench, job, dice, given.share)]
        tally: dict[tuple[str, str], list[int]] = {(trial.job.name, trial.fault): [0, 0] for trial in planned}
        dice.shuffle(planned)  # so that whatever time there is, every kind has its share of it
        for trial in planned:
            if time.monotonic() - begun > given.minutes * 60:
                break
            counts = tally[trial.job.name, trial.fault]
            counts[1] += 1
            try:
                trial.happen()
                counts[0] += 1
            except AssertionError as error:
                lost += 1
                print(f"  {trial.job.name}, {trial.fault}: {str(error)[-1500:]}", file=sys.stderr, flush=True)
            done = sum(tried for _, tried in tally.values())
            left = (time.monotonic() - begun) / done * (len(planned) - done) / 60
            if sys.stderr.isatty() or done % 10 == 0:
                print(f"  {done} of {len(planned)}, {lost} lost, {left:.0f} min left", file=sys.stderr, flush=True)
    print(f"{'job':12} {'fault':38} {'survived':>9}")
    for (job, fault), (good, tried) in tally.items():
        survived += good
        print(f"{job:12} {fault:38} {good:4} of {tried}")
    minutes = (time.monotonic() - begun) / 60
    print(f"{survived} of {survived + lost} faults survived, seed {given.seed}, {minutes:.1f} min", flush=True)
    if survived + lost < len(planned):
        print(f"{len(planned) - survived - lost} were left out for lack of time")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
