"""A process that reads damaged files, and the side that asks it to.

What no signal of Python's stops, a loop inside a library or its end by the system, costs this process only: the asking
side reports it as the input's outcome, starts another and goes on.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.fuzz.guard import Limits, end_after

ROOT = Path(__file__).parents[2]
START = 300  # seconds by the clock that making the valid files may take
GRACE = 120  # seconds by the clock beyond an input's own limit, before the process counts as stuck, not only starved


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Args:
        told: "read" or the message; empty for a defect.
        where: a defect's kind and place; empty for none.
        about: its message.
        path: the calls that led there, the innermost first.
    """

    told: str = ""
    where: str = ""
    about: str = ""
    path: str = ""


class Reader:
    """Has inputs read by another process.

    Args:
        modules: that register the targets.
        limits: what an input may take.
    """

    def __init__(self, modules: Sequence[str] = ("tests.fuzz.parsers",), limits: Limits = Limits()) -> None:  # noqa: B008
        self.modules, self.limits = tuple(modules), limits
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._lines = b""
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._errors.close()

    def read(self, name: str, start: int, stop: int) -> Iterator[tuple[int, Outcome]]:
        """Read inputs of one target by their numbers, and yield what came of each."""
        asked = False
        for number in range(start, stop):
            if self._process is None or not asked:
                self._ask(name, number, stop)
                asked = True
            outcome = self._answer(self.limits.wait + GRACE)
            yield number, outcome
            if outcome.where.startswith("GreedError"):
                self.end()  # what it still holds would be beyond the next input's limit

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                pipe.close()
        self._process, self._lines = None, b""
        if self._place is not None:
            self._place.cleanup()  # here, since a process that is killed cleans nothing up
        self._place = None

    def _ask(self, name: str, start: int, stop: int) -> None:
        if self._process is None:
            self._errors.truncate(0)
            self._place = tempfile.TemporaryDirectory(dir=memory_folder(), ignore_cleanup_errors=True)
            limits = json.dumps(asdict(self.limits))
            command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.reader", limits, self._place.name]
            alone = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._process = subprocess.Popen(
                [*command, *self.modules],
                cwd=ROOT,
                env=os.environ | alone,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        self._process.stdin.write(f"{json.dumps([name, start, stop])}\n".encode())
        self._process.stdin.flush()
        ready = self._answer(START)
        if ready.where:
            raise RuntimeError(f"the valid files of {name} are not read: {ready.where}, {ready.about}, {ready.path}")

    def _answer(self, wait: float) -> Outcome:
        """Return the next outcome; where none comes, what became of the process."""
        pipe = self._process.stdout.fileno()
        with selectors.DefaultSelector() as waiting:
            waiting.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._lines:
                came = os.read(pipe, 1 << 16) if waiting.select(wait) else None
                if not came:
                    return self._lost(silent=came is None)
                self._lines += came
        line, _, self._lines = self._lines.partition(b"\n")
        return Outcome(**json.loads(line))

    def _lost(self, *, silent: bool) -> Outcome:
        if silent:
            where = "no answer"
        else:
            code = self._process.wait()
            where = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self.end()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()
        _, _, calls = said.rpartition("(most recent call first):")
        return Outcome(where=where, about=calls.strip()[:600] if calls != said else said[-300:])


def serve() -> None:
    """Answer the requests on standard input."""
    limits = Limits(**json.loads(sys.argv[1]))
    faulthandler.register(signal.SIGXCPU, chain=True)  # tells which library it was in, then ends the process
    for module in sys.argv[3:]:
        importlib.import_module(module)
    from tests.fuzz.target import TARGETS, Bench

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    benches: dict[str, Bench] = {}

    def answer(outcome: Outcome) -> None:
        answers.write(f"{json.dumps(asdict(outcome))}\n".encode())
        answers.flush()

    for line in sys.stdin:
        name, start, stop = json.loads(line)
        if name not in benches:
            benches[name] = Bench(TARGETS[name], Path(sys.argv[2]) / str(len(benches)), limits)
        answer(Outcome("ready"))
        for number in range(start, stop):
            end_after(2 * limits.seconds + 1)
            answer(outcome_of(benches[name], number))


def memory_folder() -> str | None:
    """Return a folder in memory, where files cost little; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def outcome_of(bench: object, number: int) -> Outcome:
    """Read one input and return what came of it, whatever that is."""
    try:
        return Outcome(bench.try_one(Random(f"{bench.target.name} {number}")))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return defect(error)


def defect(error: BaseException) -> Outcome:
    """Return an error as an outcome, by the place in kdiga where it was raised."""
    every = traceback.extract_tb(error.__traceback__)
    places = [place for place in every if "/kdiga/" in place.filename] or every
    where = f"{type(error).__name__} at {Path(places[-1].filename).name}:{places[-1].lineno}"
    path = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(every[-8:]))
    return Outcome(where=where, about=str(error)[:300], path=path)


if __name__ == "__main__":
    serve()
