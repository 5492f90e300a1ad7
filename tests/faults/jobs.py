"""Pieces of work that faults happen to, each with the answer that it has to come to whatever happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.faults.warm import Warm

BASE = """
data: {{name: digits, train_examples: {examples}}}
student: {{name: cnn-4}}
threat: {{norm: linf, eps: 0.1}}
"""
TEACHER = (
    BASE.format(examples=300)
    + """
method: ce
training: {epochs: 3, batch_size: 50, lr: 2e-2, validation_steps: 1}
"""
)
TRAIN = (
    BASE.format(examples=500)
    + """
method: {name: pgd-at, steps: 2}
training: {epochs: 8, batch_size: 20, lr: 1e-2, validation_steps: 2, validate_every: 4, ema: 0.9, save_every: 0.0005}
"""
)
CACHE = (
    BASE.format(examples=500)
    + """
teacher: teacher
method: kdiga
training: {epochs: 8, batch_size: 25, lr: 2e-2, validation_steps: 1, augment: crop-flip}
cache: {folder: OUT, shard_examples: 25, views: 8}
"""
)
STUDY = """
base: {data: {name: digits, train_examples: 400}, student: cnn-4, threat: {norm: linf, eps: 0.1},
       training: {epochs: 5, batch_size: 50, lr: 2e-2, validation_steps: 1, validate_every: 5, save_every: 0.002}}
methods: {ce: ce, at: {name: pgd-at, steps: 2}}
seeds: [0, 1]
evaluate: {attacks: [clean, pgd-5], examples: 40}
"""


@dataclass(frozen=True)
class Job:
    """A command and what it comes to.

    Args:
        name: of it.
        arguments: given where its output goes, below the folder that :func:`prepare` made.
        go_on: what is added to continue it.
        answer: given its output, what has to be the same in the end.
        quick: whether it starts without loading PyTorch anew.
    """

    name: str
    arguments: Callable[[str], list[str]]
    go_on: tuple[str, ...]
    answer: Callable[[Path], Any]
    quick: bool = True


def prepare(folder: Path, warm: Warm) -> None:
    """Write recipes, and train what is attacked and learnt from."""
    for name, text in (("teacher", TEACHER), ("train", TRAIN), ("cache", CACHE), ("study", STUDY)):
        (folder / f"{name}.yaml").write_text(text)
    process = warm.run(["train", "teacher.yaml", "--out", "teacher"], folder)
    assert process.status == 0, process.said


def _weights(folder: Path) -> dict[str, list[float]]:
    return {
        f"{which} {name}": value.flatten().tolist()
        for which in ("best", "last")
        for name, value in load_file(folder / f"{which}.safetensors").items()
    }


def _trained(folder: Path) -> Any:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    validation = json.loads((folder / "result.json").read_text())["validation"]
    left = [path.name for path in folder.glob("*.pt*")]
    assert not left, f"{left} was left behind"
    return _weights(folder), [line | {"seconds": 0} for line in lines], _timeless(validation)


def _filled(folder: Path) -> Any:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".npy", ".json") or "partial" in path.name
    }


def _attacked(folder: Path) -> Any:
    return json.loads((folder / "evaluation.json").read_text())["correct"]


def _studied(folder: Path) -> Any:
    cells = sorted(path.parent for path in folder.rglob("result.json"))
    assert len(cells) == 4, f"{len(cells)} of 4 cells have a result"
    failed = [path.read_text() for path in folder.rglob("failure.json")]
    assert not failed, failed
    correct = [json.loads((cell / "best-test.json").read_text())["correct"] for cell in cells]
    return [_weights(cell) for cell in cells], correct, (folder / "table.md").read_text().count("|")


def _timeless(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _timeless(value) for name, value in found.items() if name != "seconds"}
    return found


JOBS = {
    job.name: job
    for job in (
        Job("train", lambda out: ["train", "train.yaml", "--out", out], ("--resume",), _trained),
        Job("cache", lambda out: ["cache", "cache.yaml", "--set", f"cache.folder={out}"], (), _filled),
        Job(
            "evaluate",
            lambda out: [
                "evaluate",
                "teacher",
                "--attacks",
                "pgd-40x2,cw-40",
                "--examples",
                "120",
                "--batch-size",
                "10",
                "--out",
                out,
            ],
            (),
            _attacked,
        ),
        Job("study", lambda out: ["study", "study.yaml", "--out", out, "--workers", "1"], (), _studied),
        Job(
            "study by two",
            lambda out: ["study", "study.yaml", "--out", out, "--workers", "2"],
            (),
            _studied,
            quick=False,
        ),
    )
}
