"""The short form of ``make soak``: one of every fault to each job, at moments that a seed chooses."""

from __future__ import annotations

import signal
from random import Random

import pytest

from tests.faults import disks, interruptions
from tests.faults.bench import Bench, finished_well, told_in_a_line
from tests.faults.jobs import JOBS
from tests.faults.warm import Warm

MOUNTS = pytest.mark.skipif(not disks.can_mount(), reason="mounting a small disk takes the rights of root")
QUICK = [job for job in JOBS.values() if job.quick]
EACH = pytest.mark.parametrize("job", QUICK, ids=[job.name for job in QUICK])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with Warm() as warm:
        yield Bench(tmp_path_factory.mktemp("faults"), warm)


@EACH
def test_killed(job, bench):
    interruptions.killed_at_a_moment(bench, job, Random(job.name))


@EACH
def test_killed_at_a_write(job, bench):
    when = "before" if job.name in ("train", "cache") else "after"
    assert interruptions.killed_at_a_write(bench, job, 2, when)


@EACH
def test_told_to_end(job, bench):
    number = signal.SIGINT if job.name in ("cache", "study") else signal.SIGTERM
    interruptions.told_to_end(bench, job, number, Random(job.name))


@pytest.mark.parametrize("name", ["train", "study"])
def test_started_twice(name, bench):
    interruptions.started_twice(bench, JOBS[name])


def test_clock(bench):
    interruptions.clock_moved(bench, JOBS["study"], -400, Random(0))


@MOUNTS
@EACH
def test_full_disk(job, bench):
    assert disks.full(bench, job, round(0.6 * disks.pages_of(bench, job)))


@MOUNTS
def test_read_only(bench):
    disks.read_only(bench, JOBS["study"])


def test_no_memory_in_training(bench):
    """The line says what to reduce; with it reduced, the command goes on to the end."""
    arguments = ["train", "teacher.yaml", "--out", "memory"]
    words = "memory ran out (2.00 GiB more", "batches of 50 images", "set training.accumulate to 2", "--resume"
    told_in_a_line(bench.warm.run(arguments, bench.folder, memory=49), 1, *words)
    reduced = [*arguments, "--resume", "--set", "training.accumulate=2"]
    finished_well(bench.warm.run(reduced, bench.folder, memory=49))


def test_no_memory_in_the_check_after_an_epoch(bench):
    arguments = ["train", "teacher.yaml", "--out", "checked", "--set", "training.batch_size=15"]
    words = "memory ran out", "the check after an epoch", "training.validation_examples"
    told_in_a_line(bench.warm.run(arguments, bench.folder, memory=20), 1, *words)


def test_no_memory_in_an_evaluation(bench):
    arguments = ["evaluate", "teacher", "--attacks", "pgd-2", "--out", "crowded"]
    words = "memory ran out", "batches of 360 images", "--batch-size"
    told_in_a_line(bench.warm.run(arguments, bench.folder, memory=100), 1, *words)
    finished_well(bench.warm.run([*arguments, "--batch-size", "100"], bench.folder, memory=100))


def test_no_memory_in_a_cache(bench):
    arguments = JOBS["cache"].arguments("no-memory")
    told_in_a_line(bench.warm.run(arguments, bench.folder, memory=10), 1, "memory ran out", "training.batch_size")
