"""Print the Markdown tables of docs/results.md from the result files of the runs that it names.

    python docs/tables.py demo runs/demo0 runs/demo1 runs/demo2
    python docs/tables.py runs runs/fashion-mnist-teacher runs/fashion-mnist-kd ...
    python docs/tables.py against runs/study-fashion-mnist/tangent runs/study-fashion-mnist/rslad ...

The second form reads ``best-test.json`` and ``last-test.json`` of each run, written by ``kdiga evaluate --json``.
The third compares the first label of a study with each of the others, on the same test images and seeds.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

ATTACKS = ("clean", "pgd-40", "autoattack")


def demo(folders: list[Path]) -> None:
    """Mean and range over seeds of each model."""
    names = ("teacher", "ce", "kd", "kdiga", "tangent")
    print(f"| model | parameters | {' | '.join(ATTACKS)} | AutoAttack by seed |\n|---|---|---|---|---|---|")
    for name in names:
        entries = [_judged(folder / name) for folder in folders]
        means = " | ".join(f"{100 * statistics.mean(e['accuracy'][attack] for e in entries):.1f}" for attack in ATTACKS)
        by_seed = ", ".join(f"{100 * entry['accuracy']['autoattack']:.1f}" for entry in entries)
        print(f"| {name} | {entries[0]['parameters']:,} | {means} | {by_seed} |")
    for folder in folders:
        entry = _judged(folder / names[0])
        print(f"\nseed {entry['seed']}: {entry['provenance']['date']}, {entry['provenance']['hardware']}")


def _judged(run: Path) -> dict[str, Any]:
    (path,) = run.glob("evaluation/*/evaluation.json")
    return json.loads(path.read_text())


def runs(folders: list[Path]) -> None:
    """Best and last weights of each run."""
    print("| run | parameters | weights | clean | PGD-20 | AutoAttack | 95 % | training minutes |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in folders:
        trained = json.loads((folder / "result.json").read_text())
        for which in ("best", "last"):
            path = folder / f"{which}-test.json"
            if not path.is_file():
                continue
            tested = json.loads(path.read_text())
            low, high = tested["interval_95"]["autoattack"]
            scores = " | ".join(f"{100 * tested['accuracy'][name]:.1f}" for name in ("clean", "pgd-20", "autoattack"))
            epoch = trained["validation"][which]["epoch"] + 1
            print(
                f"| {folder.name} | {tested['parameters']:,} | {which} (epoch {epoch}) | {scores} | "
                f"{100 * low:.1f} - {100 * high:.1f} | {trained['minutes']:.1f} |"
            )
    print(f"\n{trained['provenance']['hardware']}, {trained['provenance']['date']}, seed {trained['seed']}")


def against(folders: list[Path]) -> None:
    """Differences in points, first label minus each other, with a 95 % interval over test images."""
    first, *others = folders
    print("| against | PGD-20, best | PGD-20, last | AutoAttack, best | AutoAttack, last | AutoAttack, best, by seed |")
    print("|---|---|---|---|---|---|")
    for other in others:
        cells = [
            _difference(_correct(first, which, attack), _correct(other, which, attack))
            for attack in ("pgd-20", "autoattack")
            for which in ("best", "last")
        ]
        ours, theirs = _correct(first, "best", "autoattack"), _correct(other, "best", "autoattack")
        by_seed = ", ".join(f"{100 * (a.mean() - b.mean()):+.0f}" for a, b in zip(ours, theirs, strict=False))
        print(f"| {other.name} | {' | '.join(cells)} | {by_seed} |")


def _correct(label: Path, which: str, attack: str) -> np.ndarray:
    """Whether each test image is still right, (seed, image)."""
    files = sorted(label.glob(f"seed-*/{which}-test.json"))
    return np.array([json.loads(file.read_text())["correct"][attack] for file in files], dtype=float)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    seeds = min(len(ours), len(theirs))
    # The image is the unit: its seeds are averaged first, since one hard image is hard for all of them.
    gaps = (ours[:seeds] - theirs[:seeds]).mean(0)
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{100 * gaps.mean():+.1f} ± {196 * error:.1f}"


if __name__ == "__main__":
    {"demo": demo, "runs": runs, "against": against}[sys.argv[1]]([Path(argument) for argument in sys.argv[2:]])
