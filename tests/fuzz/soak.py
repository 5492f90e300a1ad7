"""Reads many damaged files per parser and prints a line each: inputs, crashes.

    python -m tests.fuzz.soak --inputs 10000 [TARGET ...]        random, repeatable by --seed
    python -m tests.fuzz.soak --inputs 10000 --guided [TARGET ...]  guided by coverage, with atheris

Exit status 1 if anything crashed, hung or was read wrongly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import torch

from tests.fuzz import TARGETS, Bench


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="names or beginnings of names; all if none")
    parser.add_argument("--inputs", type=int, default=10_000, help="a target")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="a target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="let atheris choose by coverage")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in TARGETS if not given.targets or name.startswith(tuple(given.targets))]
    if given.guided:
        from tests.fuzz.guided import guided

        return max(guided(name, given.inputs, given.seconds, given.seed) for name in names)
    return max(soak(name, given.inputs, given.seconds, given.seed) for name in names)


def soak(name: str, inputs: int, seconds: float, seed: int) -> int:
    """Read damaged files of one target, print its line, and return 1 if there was a defect."""
    crashes, told, done = Counter[str](), Counter[bool](), 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(TARGETS[name], Path(folder) / "bench")
        begun = time.monotonic()
        for number in range(seed, seed + inputs):
            if time.monotonic() - begun > seconds:
                break
            done += 1
            try:
                told[bench.try_one(Random(f"{name} {number}")) == "read"] += 1
            except (Exception, SystemExit) as error:
                note(crashes, error, number)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                note(crashes, error, number)
    print(f"{name:22} {done:7,} inputs  {told[True]:6,} read {told[False]:6,} refused  {sum(crashes.values())} crashes "
          f"({len(crashes)} kinds)  {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    return int(bool(crashes))


def note(crashes: Counter[str], error: BaseException, number: int) -> None:
    """Count a crash by where it was raised, and print the first of each kind."""
    places = [place for place in traceback.extract_tb(error.__traceback__) if "/kdiga/" in place.filename]
    where = f"{type(error).__name__} at " + (f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "?")
    crashes[where] += 1
    if crashes[where] == 1:
        path = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(places[-5:]))
        print(
            f"  input {number}: {type(error).__name__}: {str(error)[:200]!r}\n    {path}", file=sys.stderr, flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
