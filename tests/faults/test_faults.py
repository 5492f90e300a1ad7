"""The short form of ``make soak``: one of every fault to each job, at moments that a seed chooses."""

from __future__ import annotations

import signal
from random import Random

import pytest

from tests.faults import disks, interruptions
from tests.faults.bench import Bench, told_in_a_line
from tests.faults.jobs import JOBS
from tests.faults.warm import Warm

MOUNTS = pytest.mark.skipif(not disks.can_mount(), reason="mounting a small disk takes the rights of root")
EACH = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
MEMORY = 200 << 20


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
    """The line says what to reduce; with it reduced, the command goes on."""
    arguments = ["train", "train.yaml", "--out", "memory", "--set", "student.name=cnn-64",
                 "--set", "training.batch_size=400", "--set", "training.epochs=1"]  # fmt: skip
    words = "memory ran out", "set training.accumulate to 2", "training.batch_size"
    told_in_a_line(bench.warm.run(arguments, bench.folder, memory=MEMORY), 1, *words)


def test_no_memory_in_an_evaluation(bench):
    arguments = ["evaluate", "cnn-256", "--data", "digits", "--eps", "0.1", "--attacks", "pgd-2", "--out", "crowded"]
    told_in_a_line(bench.warm.run(arguments, bench.folder, memory=MEMORY), 1, "memory ran out", "--batch-size")
