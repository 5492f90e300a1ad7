"""Disks that are full or cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.bench import Bench, finished_well, told_in_a_line, whole_folder
from tests.faults.jobs import Job

PAGE = 4096
ENOUGH = 64 << 20


def can_mount() -> bool:
    """Return whether this process may mount a small disk."""
    return os.geteuid() == 0 and subprocess.run(["which", "mount"], capture_output=True, check=False).returncode == 0


@contextmanager
def disk(place: Path, size: int) -> Generator[None]:
    """Mount a disk of so many bytes."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    """Change a disk's size, or whether it can be written."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def full(bench: Bench, job: Job, pages: int) -> bool:
    """A disk with room for so many pages beside a file of the user's; return whether it was too small.

    The command says so in one line, leaves the user's file alone, and goes on when there is room.
    """
    place, log = bench.folder / bench.fresh(), bench.folder / "log-disk.txt"
    with disk(place, (pages + 1) * PAGE):
        (place / "mine").write_bytes(b"m" * PAGE)
        process = bench.warm.run(job.arguments(f"{place.name}/out"), bench.folder, log)
        small = process.status != 0
        if small:
            told_in_a_line(process, None, *([] if " are free;" in process.said else ["No space left"]))
        remount(place, f"size={ENOUGH}")
        bench.goes_on(job, f"{place.name}/out")
        assert (place / "mine").read_bytes() == b"m" * PAGE
    return small


def read_only(bench: Bench, job: Job) -> None:
    """A disk that cannot be written: refused in a line, before any work."""
    place = bench.folder / bench.fresh()
    with disk(place, ENOUGH):
        remount(place, "ro")
        told_in_a_line(bench.warm.run(job.arguments(f"{place.name}/out"), bench.folder), 2, "out")


def read_only_after_a_start(bench: Bench, job: Job) -> None:
    """A finished folder on a disk that cannot be written any more is not harmed."""
    place = bench.folder / bench.fresh()
    with disk(place, ENOUGH):
        finished_well(bench.warm.run(job.arguments(f"{place.name}/out"), bench.folder))
        before = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
        remount(place, "ro")
        bench.warm.run([*job.arguments(f"{place.name}/out"), *job.go_on], bench.folder)
        assert {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()} == before


def pages_of(bench: Bench, job: Job) -> int:
    """Return how many pages the job's output takes on a disk."""
    bench.whole(job)
    files = (path for path in (bench.folder / whole_folder(job)).rglob("*") if path.is_file())
    return sum(-(-path.stat().st_size // PAGE) for path in files)
