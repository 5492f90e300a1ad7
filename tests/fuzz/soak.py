"""Reads many damaged files per parser and prints a line each: inputs, read, refused, crashes.

    python -m tests.fuzz.soak --inputs 10000 [TARGET ...]        random, repeatable by --seed
    python -m tests.fuzz.soak --inputs 10000 --guided [TARGET ...]  guided by coverage, with atheris

Exit status 1 if anything crashed, hung, took all memory or was read wrongly.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.parsers import TARGETS
from tests.fuzz.reader import Outcome, Reader


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="names or beginnings of names; all if none")
    parser.add_argument("--inputs", type=int, default=10_000, help="a target")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="a target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="let atheris choose by coverage")
    given = parser.parse_args()
    names = [name for name in TARGETS if not given.targets or name.startswith(tuple(given.targets))]
    if given.guided:
        from tests.fuzz.guided import guided

        return max(guided(name, given.inputs, given.seconds, given.seed) for name in names)
    return max(soak(name, given.inputs, given.seconds, given.seed) for name in names)


def soak(name: str, inputs: int, seconds: float, seed: int) -> int:
    """Read damaged files of one target, print its line, and return 1 if there was a defect."""
    crashes, told = Counter[str](), Counter[bool]()
    with Reader() as reader:
        begun = time.monotonic()
        for number, outcome in reader.read(name, seed, seed + inputs):
            if outcome.where:
                note(crashes, outcome, number)
            else:
                told[outcome.told == "read"] += 1
            if time.monotonic() - begun > seconds:
                break
    done = told.total() + crashes.total()
    print(
        f"{name:22} {done:7,} inputs  {told[True]:6,} read {told[False]:6,} refused  {crashes.total()} crashes "
        f"({len(crashes)} kinds)  {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    return int(bool(crashes))


def note(crashes: Counter[str], outcome: Outcome, number: int) -> None:
    """Count a crash by where it was raised, and print the first of each kind."""
    crashes[outcome.where] += 1
    if crashes[outcome.where] == 1:
        print(f"  input {number}: {outcome.where}: {outcome.about!r}\n    {outcome.path}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
