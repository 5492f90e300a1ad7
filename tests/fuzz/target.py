"""What is fuzzed: a few valid files, made by the program itself, how they are damaged, and who reads them."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from kdiga.errors import KdigaError

SECONDS = 5  # of the processor that reading may take, before it counts as a hang
WAIT = 120  # seconds by the clock, which other processes may take most of
LONGEST = 20_000  # characters of a message

Damage = Callable[[bytes, Random], bytes]


class HangError(BaseException):
    """Reading took too long; no ``Exception``, so that nothing catches it on the way."""


@dataclass(frozen=True)
class Target:
    """A parser.

    Args:
        name: of the parser.
        files: writes the valid files into a folder.
        damage: by file name, how a file may be damaged; files that are not named stay as they are.
        read: reads the folder as a command would, and returns why where it leaves out what is damaged. Whatever it
            raises but an error of kdiga's family is a defect; it may raise ``AssertionError`` for a wrong result.
    """

    name: str
    files: Callable[[Path], None]
    damage: Mapping[str, Damage]
    read: Callable[[Path], str | None]


TARGETS: dict[str, Target] = {}


def target(name: str, damage: Mapping[str, Damage], files: Callable[[Path], None]) -> Callable[..., None]:
    """Make a function that reads a folder known as a target."""

    def keep(read: Callable[[Path], str | None]) -> None:
        TARGETS[name] = Target(name, files, damage, read)

    return keep


class Bench:
    """A target's folder, brought back to its valid state before every input.

    Args:
        one: the target.
        folder: of its own.
    """

    def __init__(self, one: Target, folder: Path) -> None:
        self.target, self.folder = one, folder / "place"
        valid = folder / "valid"
        valid.mkdir(parents=True)
        one.files(valid)
        self.valid = {path.relative_to(valid): path.read_bytes() for path in valid.rglob("*") if path.is_file()}
        shutil.rmtree(valid)
        self.restore()
        one.read(self.folder)  # the valid files are accepted

    def restore(self) -> None:
        """Write the valid files, and nothing else."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for path, content in self.valid.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(content)

    def try_one(self, random: Random) -> str:
        """Read the files with one to two of them damaged, and return what came of it: "read" or the message."""
        self.restore()
        names = list(self.target.damage)
        for name in {random.choice(names) for _ in range(random.choice([1, 1, 1, 2]))}:
            path = self.folder / name
            content = self.target.damage[name](self.valid[Path(name)], random)
            if random.random() < 0.01:
                path.unlink()
                if random.random() < 0.5 and path.suffix != ".pt":  # writing into a folder is no matter of reading
                    path.mkdir()
                continue
            path.write_bytes(content)
        return self.outcome()

    def outcome(self) -> str:
        """Read the folder as it is."""
        try:
            with within(SECONDS):
                told = self.target.read(self.folder) or "read"
        except KdigaError as error:
            told = str(error)
        assert told, "an error without a word"
        assert len(told) < LONGEST, f"a message of {len(told):,} characters"
        return told


@contextmanager
def within(seconds: int) -> Generator[None]:
    """Raise HangError if the block takes more of the processor, or waits for two minutes."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"longer than {seconds} s")

    before = [signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
