"""The same targets under atheris, whose libFuzzer keeps inputs that reach new branches of kdiga.

A process a target, since libFuzzer ends its process.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

BYTES = 512  # of an input, which are the random numbers of the damage


class FedRandom(Random):
    """Random numbers out of bytes; zeros where they end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self.data, self.at = data, 0

    def getrandbits(self, k: int) -> int:
        count = (k + 7) // 8
        part, self.at = self.data[self.at : self.at + count].ljust(count, b"\0"), self.at + count
        return int.from_bytes(part, "little") >> (8 * count - k)

    def random(self) -> float:
        return self.getrandbits(16) / 65536


def guided(name: str, inputs: int, seconds: float, seed: int) -> int:
    """Fuzz one target in a process of its own, print its line, and return 1 if there was a defect."""
    with tempfile.TemporaryDirectory() as folder:
        limit = [] if seconds == float("inf") else [f"-max_total_time={max(1, int(seconds))}"]
        flags = [
            f"-atheris_runs={inputs}",
            f"-seed={seed + 1}",
            f"-max_len={BYTES}",
            "-len_control=0",
            f"-artifact_prefix={folder}/",
            *limit,
        ]
        corpus = Path(folder) / "corpus"  # to begin with, as many different kinds of damage
        corpus.mkdir()
        for number in range(64):
            (corpus / str(number)).write_bytes(Random(f"{name} {seed} {number}").randbytes(BYTES))
        # As a script: what the package imports would be imported before it can be instrumented.
        command = [sys.executable, "-W", "ignore", __file__, name, folder, *flags, str(corpus)]
        begun = time.monotonic()
        alone = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        told = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | alone)
        counts = Path(folder) / "counts.json"
        found = json.loads(counts.read_text()) if counts.exists() else {"inputs": 0, "read": 0, "crashes": {}}
    crashes = found["crashes"]
    done = re.search(r"^Done (\d+) runs", told.stderr, re.MULTILINE)  # as libFuzzer says where its time is over
    if not found.get("ended") and done is None:  # by the system or a library, at the input after the last counted
        crashes[f"ended with status {told.returncode}"] = told.stderr[-400:]
    for where, message in crashes.items():
        print(f"  {where}: {message}", file=sys.stderr)
    reached = (re.findall(r"cov: (\d+)", told.stderr) or ["no"])[-1]
    refused = found["inputs"] - found["read"] - sum(found.get("counts", {}).values())
    print(
        f"{name:22} {found['inputs']:7,} inputs  {found['read']:6,} read {refused:6,} refused  "
        f"{len(crashes)} kinds of crashes  {reached} branches reached  "
        f"{time.monotonic() - begun:.0f} s",
        flush=True,
    )
    return int(bool(crashes))


def main() -> None:
    name, folder, *flags = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parents[2])
    import atheris

    with atheris.instrument_imports(include=["kdiga"], enable_loader_override=False):
        from tests.fuzz.parsers import TARGETS
        from tests.fuzz.target import Bench
    from tests.fuzz.guard import Limits
    from tests.fuzz.reader import memory_folder

    # What is watched branch by branch takes several times as long.
    slower = Limits(seconds=4 * Limits().seconds)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as place:
        fuzz(Bench(TARGETS[name], Path(place) / "bench", slower), Path(folder) / "counts.json", flags)


def fuzz(bench: Any, counts: Path, flags: list[str]) -> None:
    """Let atheris choose inputs, and keep count of them in a file: libFuzzer ends the process."""
    import atheris

    from tests.fuzz.guard import end_after
    from tests.fuzz.reader import defect

    found: dict[str, Any] = {"inputs": 0, "read": 0, "counts": {}, "crashes": {}}

    def one(data: bytes) -> None:
        end_after(2 * bench.limits.seconds + 1)
        found["inputs"] += 1
        try:
            found["read"] += bench.try_one(FedRandom(data)) == "read"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            told = defect(error)
            found["counts"][told.where] = found["counts"].get(told.where, 0) + 1
            found["crashes"].setdefault(told.where, f"{told.about} {told.path}")
        if found["inputs"] % 50 == 0 or found["inputs"] < 5:
            counts.write_text(json.dumps(found))

    atheris.Setup([sys.argv[0], *flags], one)
    atexit.register(lambda: counts.write_text(json.dumps(found | {"ended": True})))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
