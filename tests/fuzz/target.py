"""What is fuzzed: a few valid files, made by the program itself, how they are damaged, and who reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kdiga.errors import KdigaError
from tests.fuzz.guard import Limits, guarded

LONGEST = 20_000  # characters of a message

Damage = Callable[[bytes, Random], bytes]


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
        limits: what reading may take.
    """

    def __init__(self, one: Target, folder: Path, limits: Limits = Limits()) -> None:  # noqa: B008 (it is frozen)
        self.target, self.folder, self.limits = one, folder / "place", limits
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
            with guarded(self.limits):
                told = self.target.read(self.folder) or "read"
        except KdigaError as error:
            told = str(error)
        assert told, "an error without a word"
        assert len(told) < LONGEST, f"a message of {len(told):,} characters"
        return told
