"""Changes one ingredient at a time under every command that reuses something: it is refused, or the result is fresh.

    python -m tests.faults.ingredients [--only TEXT ...]

A command runs in a folder with its earlier result after one change: of a file, a setting or the version. It has to
refuse in one line with both values, or to return what it returns in a folder without its earlier result.
Exit status 1 if it ever returns anything else.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from kdiga.errors import KdigaError, KdigaWarning
from kdiga.model_state import seeded
from tests.conftest import few_iterations
from tests.faults.combinations import COMMANDS, Command
from tests.faults.reusing import build_world, save_teacher, train

BOTH = re.compile(
    r" there and .* here|holds the weights \w{12}, and .* of \w{12}|is of the weights \w{12}, and .*\w{12}"
    r"|named '.*', and the images have '|differ in .* \(.*, .*\)|already holds an export"
)
VOLATILE = {"seconds", "minutes", "provenance", "date", "hardware", "command", "latency_ms", "attack_minutes", "bytes"}
VOLATILE |= {"choices", "filled_with"}  # the latter says by which version, and in which batches, a cache was filled


def _swap(first: str, second: str) -> Callable[[], object]:
    return lambda: shutil.copyfile(first, second)


def _repaint(path: str) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.point(lambda value: 255 - value).save(path)


def _rename(old: str, new: str) -> Callable[[], object]:
    return lambda: Path(old).rename(new)


def _again(path: str) -> None:
    """Save an image of the same pixels in other bytes."""
    from PIL import Image

    with Image.open(path) as image:
        image.save(path, compress_level=0)


FILES: dict[str, Callable[[], object]] = {
    "run trained again": lambda: train("runs/a", overwrite=True, training__seed=5),
    "best weights": _swap("runs/b/best.safetensors", "runs/a/best.safetensors"),
    "last weights": _swap("runs/b/last.safetensors", "runs/a/last.safetensors"),
    "other student's weights": _swap("runs/a/best.safetensors", "runs/b/best.safetensors"),
    "teacher weights": lambda: save_teacher("teacher.safetensors", 9),
    "teacher dtype": lambda: save_teacher("teacher.safetensors", 3, torch.float64),
    "teacher architecture": lambda: save_teacher("teacher.safetensors", 3, name="cnn-8"),
    "test image": lambda: _repaint("data/test/c0/00.png"),
    "training image": lambda: _repaint("data/train/c0/00.png"),
    "bytes of a test image": lambda: _again("data/test/c0/00.png"),
    "test label": _rename("data/test/c0/00.png", "data/test/c1/zz.png"),
    "training label": _rename("data/train/c0/00.png", "data/train/c1/zz.png"),
    "order of test images": _rename("data/test/c0/00.png", "data/test/c0/zz.png"),
    "order of training images": _rename("data/train/c0/00.png", "data/train/c0/zz.png"),
    "test image more": _swap("data/test/c0/00.png", "data/test/c0/zz.png"),
    "training image more": _swap("data/train/c0/00.png", "data/train/c0/zz.png"),
    "test image less": lambda: Path("data/test/c0/00.png").unlink(),
    "class name": lambda: [_rename(f"data/{part}/c3", f"data/{part}/d3")() for part in ("train", "test")],
    "run folder": _rename("runs/a", "runs/moved"),
}
VERSION = "version"


@dataclass(frozen=True)
class Outcome:
    """What a command came to: the text of a refusal, or its result without times."""

    refused: str = ""
    result: Any = None


class Ingredients:
    """A folder in which commands run again after one change.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.work, self.snapshot = folder / "work", folder / "snapshot"
        self.work.mkdir()
        with self._inside():
            build_world()
        shutil.copytree(self.work, self.snapshot / "world")

    def combinations(self, command: Command) -> Iterator[str]:
        """Yield the names of a command's ingredients."""
        yield from (name for name in (*FILES, VERSION) if name not in command.without)
        yield from command.settings

    def check(self, command: Command, name: str) -> str:
        """Change an ingredient and return "refused" or "fresh".

        Raises:
            AssertionError: If the command returned the old result, a mixture, or a refusal without both values.
        """
        used = self._outcome(command, name, fresh=False)
        if used.refused:
            assert "\n" not in used.refused, used.refused
            assert BOTH.search(used.refused), f"refused without both values: {used.refused}"
            return "refused"
        fresh = self._outcome(command, name, fresh=True)
        assert not fresh.refused, f"refused in a new folder alone: {fresh.refused}"
        different = list(differing(used.result, fresh.result, more=name.startswith("+")))
        assert not different, f"neither refused nor fresh: {'; '.join(different[:4])}"
        return "fresh"

    def _outcome(self, command: Command, name: str, *, fresh: bool) -> Outcome:
        earlier = self.snapshot / command.name
        if not earlier.is_dir():
            self._restore(self.snapshot / "world")
            with self._inside():
                command.run({})
            shutil.copytree(self.work, earlier)
        self._restore(earlier)
        with self._inside():
            if fresh:
                for path in command.results:
                    shutil.rmtree(path, ignore_errors=True)
            if name in FILES:
                FILES[name]()
            changes = dict(command.settings.get(name, {}))
            if name == "run folder":
                changes["run"] = "runs/moved"
            try:
                with _version("99" if name == VERSION else None):
                    return Outcome(result=command.run(changes))
            except KdigaError as error:
                return Outcome(str(error))

    def _restore(self, snapshot: Path) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(snapshot, self.work)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with chdir(self.work), warnings.catch_warnings(), few_iterations(), seeded(0):
            warnings.simplefilter("ignore", KdigaWarning)
            yield


@contextmanager
def _version(version: str | None) -> Iterator[None]:
    """Let kdiga take itself for another version, if one is given."""
    if version is None:
        yield
        return
    modules = [
        one for name, one in sys.modules.items() if name.startswith("kdiga.") and "installed_version" in vars(one)
    ]
    patches = [mock.patch.object(one, "installed_version", return_value=version) for one in modules]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def differing(used: Any, fresh: Any, place: str = "", *, more: bool) -> Iterator[str]:
    """Yield in words where two results differ; with ``more`` the first may have more entries."""
    if isinstance(used, dict) and isinstance(fresh, dict):
        for key in used.keys() | fresh.keys():
            if key in VOLATILE or (more and key not in fresh):
                continue
            yield from differing(used.get(key, "missing"), fresh.get(key, "missing"), f"{place}.{key}", more=more)
    elif isinstance(used, list) and isinstance(fresh, list) and len(used) == len(fresh):
        for number, pair in enumerate(zip(used, fresh, strict=True)):
            yield from differing(*pair, f"{place}.{number}", more=more)
    elif used != fresh:
        yield f"{place[1:]} is {used!r:.60}, and in a new folder {fresh!r:.60}"


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="commands whose name contains one of these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, wrong, total = time.monotonic(), 0, 0
    print(f"{'command':16} {'refused':>8} {'fresh':>6} {'wrong':>6} {'processor s':>12}")
    with tempfile.TemporaryDirectory() as folder:
        ingredients = Ingredients(Path(folder))
        for command in COMMANDS.values():
            if not any(part in command.name for part in given.only):
                continue
            tally, used = dict.fromkeys(("refused", "fresh", "wrong"), 0), time.process_time()
            for name in ingredients.combinations(command):
                try:
                    outcome = ingredients.check(command, name)
                except Exception as error:  # an error that is no refusal is wrong as well
                    outcome = "wrong"
                    print(f"  {command.name}, {name}: {type(error).__name__}: {str(error)[:900]}", file=sys.stderr)
                tally[outcome] += 1
            wrong, total = wrong + tally["wrong"], total + sum(tally.values())
            counts = f"{tally['refused']:8} {tally['fresh']:6} {tally['wrong']:6}"
            print(f"{command.name:16} {counts} {time.process_time() - used:12.0f}", flush=True)
    minutes = (time.monotonic() - started) / 60
    print(f"{total - wrong} of {total} combinations, {minutes:.1f} min, {time.process_time():.0f} s of processor time")
    return int(wrong > 0)


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(main())
