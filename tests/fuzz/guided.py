"""The same targets under atheris, whose libFuzzer keeps inputs that reach new branches of kdiga and PyYAML.

A process a target, since libFuzzer ends its process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

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
        flags = [f"-atheris_runs={inputs}", f"-seed={seed + 1}", f"-max_len={BYTES}", *limit]
        # As a script: what the package imports would be imported before it can be instrumented.
        command = [sys.executable, "-W", "ignore", __file__, name, folder, *flags]
        begun = time.monotonic()
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        counts = Path(folder) / "counts.json"
        found = (
            json.loads(counts.read_text())
            if counts.exists()
            else {"inputs": 0, "crashes": {"did not start": told.stderr[-400:]}}
        )
    crashes = found["crashes"]
    for where, message in crashes.items():
        print(f"  {where}: {message}", file=sys.stderr)
    reached = (re.findall(r"cov: (\d+)", told.stderr) or ["no"])[-1]
    print(f"{name:22} {found['inputs']:7,} inputs  {reached} branches reached  {len(crashes)} kinds of crashes  "
          f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    return int(bool(crashes))


def main() -> None:
    name, folder, *flags = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parents[2])
    import atheris

    with atheris.instrument_imports(include=["kdiga", "yaml"], enable_loader_override=False):
        from tests.fuzz.parsers import TARGETS
        from tests.fuzz.target import Bench
    bench = Bench(TARGETS[name], Path(folder) / "bench")
    found = {"inputs": 0, "crashes": {}}

    def one(data: bytes) -> None:
        found["inputs"] += 1
        try:
            bench.try_one(FedRandom(data))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            places = error.__traceback__
            while places is not None and places.tb_next is not None:
                places = places.tb_next
            where = f"{type(error).__name__} at {Path(places.tb_frame.f_code.co_filename).name}:{places.tb_lineno}"
            found["crashes"].setdefault(where, str(error)[:200])
        if found["inputs"] % 50 == 0 or found["inputs"] < 5:
            (Path(folder) / "counts.json").write_text(json.dumps(found))

    atheris.Setup([sys.argv[0], *flags], one)
    try:
        atheris.Fuzz()
    finally:
        (Path(folder) / "counts.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
