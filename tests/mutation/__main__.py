"""Breaks the sources in small ways and asks whether the tests notice; prints a table and writes the survivors.

    python -m tests.mutation --size 200 --seed 0 [--only src/kdiga/losses.py]

Only tests that run a mutant's line are asked, the quickest first. Files go to --out: results.json and survivors.md.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.mutation.mutants import Mutant, sampled
from tests.mutation.trial import Notes, Quickest, Trial

ROOT = Path(__file__).parents[2]
# Imported once; children inherit them. kdiga itself is imported by each child, with its fault.
HEAVY = ("torch", "torchvision", "timm", "scipy.stats", "sklearn", "hypothesis")
SOURCES = [f"src/kdiga/{name}.py" for name in ("losses", "gradients/*", "attacks/*", "certification/*")]
TESTS = [f"tests/{name}" for name in ("gradients", "attacks", "certification", "oracles", "contracts/test_attacks.py")]
TESTS += [f"tests/core/test_{name}.py" for name in ("losses", "public")]
TESTS += [
    f"tests/{name}.py" for name in ("methods/test_references", "methods/test_gradcheck", "analysis/test_linearity")
]
TESTS += ["tests/training/test_sanity_checks.py::TestAlign"]
TESTS += [f"src/kdiga/{name}" for name in ("losses.py", "gradients", "attacks", "certification")]


def main() -> int:
    """Run and return the exit status: 1 if the tests fail without a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no mutant later than this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--memory", type=float, default=8, help="GiB of address space a process")
    parser.add_argument("--only", nargs="+", default=SOURCES, help="sources, patterns allowed")
    parser.add_argument("--again", type=Path, help="results.json of an earlier run: its survivors and timeouts only")
    parser.add_argument("--out", type=Path, default=Path("runs/mutation"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    mutants, population = sampled(ROOT, given.only, given.size, given.seed)
    if given.again:
        kept = {row["name"] for row in json.loads(given.again.read_text())["mutants"] if row["outcome"] != "killed"}
        mutants = [mutant for mutant in mutants if mutant.name in kept]
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.jobs, given.memory)
        if not bench.measure():
            print(bench.output())
            print("the tests fail on the sources as they are; mend that first")
            return 1
        outcomes = bench.try_all(mutants, given.minutes * 60)
    write(given, outcomes, population)
    return 0


class Bench:
    """Copies of the project, one a process, and what its tests cover."""

    def __init__(self, folder: Path, jobs: int, memory: float) -> None:
        self.trees, self.memory = [folder / str(job) for job in range(jobs)], memory
        for tree in self.trees:
            ignored = shutil.ignore_patterns(".*", "runs", "__pycache__", "build", "dist")
            shutil.copytree(ROOT, tree, ignore=ignored)
            compileall.compile_dir(tree / "src", quiet=1)

    def measure(self) -> bool:
        """Run every test once, without a fault; return whether all passed."""
        notes = self.trees[0] / "notes.json"
        trial = Trial.start(self.trees[0], TESTS, lambda: Notes(notes), 3600, self.memory)
        while (outcome := trial.done()) is None:
            time.sleep(0.1)
        if outcome != "survived":
            return False
        found = json.loads(notes.read_text())
        self.seconds: dict[str, float] = found["seconds"]
        self.lines: dict[str, dict[str, list[str]]] = found["lines"]
        return True

    def output(self) -> str:
        return (self.trees[0] / "output.txt").read_text()

    def concerned(self, mutant: Mutant) -> set[str]:
        """Return the tests that run a mutant's lines; those of whole files where it is run at import, or by none."""
        covered = self.lines.get(mutant.path, {})
        tests = {test for line in mutant.lines for test in covered.get(str(line), [])}
        if not tests or "" in tests:
            files = {test.split("::")[0] for line in covered.values() for test in line}
            tests = {test for test in self.seconds if test.split("::")[0] in files}
        return tests & self.seconds.keys()

    def try_all(self, mutants: list[Mutant], seconds: float) -> list[tuple[Mutant, str, float]]:
        """Return how each mutant ended, and after how many seconds."""
        waiting, found, begun = mutants[::-1], list[tuple[Mutant, str, float]](), time.monotonic()
        running = dict[Path, tuple[Mutant, Trial]]()
        try:
            while running or (waiting and time.monotonic() - begun < seconds):
                for tree in self.trees:
                    if tree in running and (outcome := running[tree][1].done()) is not None:
                        mutant, trial = running.pop(tree)
                        shutil.copy2(ROOT / mutant.path, tree / mutant.path)  # with its time: its bytecode holds
                        found.append((mutant, outcome, time.monotonic() - trial.begun))
                        print(f"{len(found)}/{len(mutants)} {found[-1][2]:.0f} s {outcome} {mutant.name}", flush=True)
                    if tree not in running and waiting and time.monotonic() - begun < seconds:
                        running[tree] = (waiting[-1], self._start(tree, waiting.pop()))
                time.sleep(0.05)
        finally:
            for _, trial in running.values():
                trial.stop()
        return found

    def _start(self, tree: Path, mutant: Mutant) -> Trial:
        tests, path = self.concerned(mutant), tree / mutant.path
        path.write_text(mutant.source)
        os.utime(path, (0, 0))  # no bytecode is of this time
        files = sorted({test.split("::")[0] for test in tests})
        usual = sum(self.seconds[test] for test in tests)
        return Trial.start(tree, files, lambda: Quickest(self.seconds, tests), 30 + 10 * usual, self.memory)


def write(given: argparse.Namespace, outcomes: list[tuple[Mutant, str, float]], population: dict[str, int]) -> None:
    """Print the table and write the files."""
    ends = ("killed", "survived", "timeout")
    counts = Counter((mutant.path, outcome) for mutant, outcome, _ in outcomes)
    rows = [(path, size, *(counts[path, end] for end in ends)) for path, size in population.items()]
    rows.append(("all", *(sum(row[place] for row in rows) for place in range(1, 5))))
    table = [f"| module | mutants | tried | {' | '.join(ends)} |", "|---|---|---|---|---|---|"]
    table += [f"| {path} | {size} | {sum(found)} | {' | '.join(map(str, found))} |" for path, size, *found in rows]
    print("\n".join(table))
    plain = [
        {
            "name": mutant.name,
            "line": mutant.lines[0],
            "outcome": outcome,
            "seconds": round(seconds, 1),
            "before": mutant.before,
            "after": mutant.after,
        }
        for mutant, outcome, seconds in sorted(outcomes, key=lambda end: (end[0].path, end[0].lines))
    ]
    whole = {"seed": given.seed, "size": given.size, "mutants": plain}
    (given.out / "results.json").write_text(json.dumps(whole, indent=1))
    left = [
        f"- {row['name']}, line {row['line']}: `{row['before']}` -> `{row['after']}`"
        for row in plain
        if row["outcome"] == "survived"
    ]
    (given.out / "survivors.md").write_text("\n".join([*table, "", *left, ""]))


if __name__ == "__main__":
    raise SystemExit(main())
