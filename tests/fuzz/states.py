"""What a run in the middle, a teacher cache and long work leave on disk, to go on from."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import kdiga
from kdiga.runs.work_units import ResultCache
from kdiga.teachers import CachedTeacher, Manifest, Store
from kdiga.types import Batch, ThreatModel
from tests.fuzz.mutations import damaged_bytes, damaged_json, damaged_tree
from tests.fuzz.oracles import loaded
from tests.fuzz.target import target
from tests.fuzz.weights import damaged_state, images, small


class StoppedError(Exception):
    """Ends a run in the middle."""


def resumed(folder: Path, *, stop: int | None = None) -> Any:
    """Train two epochs of two steps, from the state in the folder if there is one."""
    student, data = small(), images()

    def on_step(done: int, _steps: int) -> None:
        if done == stop:
            raise StoppedError

    kdiga.distill(
        student,
        None,
        data,
        method="ce",
        epochs=3,
        batch_size=20,
        lr=0.02,
        threat=ThreatModel("linf", 0.01),
        out=folder,
        resume=True,
        validation=data,
        validation_steps=1,
        route="exact",
        compile=False,
        precision="fp32",
        channels_last=False,
        device="cpu",
        on_step=on_step,
        select="clean",
        save_every=0,
    )
    return student


def write_state(folder: Path) -> None:
    try:
        resumed(folder, stop=3)
    except StoppedError:
        return


def damaged_run_state(content: bytes, random: Random) -> bytes:
    """Return a run's state with a damaged tree or other bytes."""
    if random.random() < 0.3:
        return damaged_bytes(content, random)
    state, buffer = loaded(content), io.BytesIO()
    try:
        state = damaged_tree(state, random)
        if random.random() < 0.3:
            state["student"] = damaged_state(state["student"], random)
        torch.save(state, buffer)
    except Exception:  # torch cannot write everything
        return damaged_bytes(content, random)
    return buffer.getvalue()


@functools.cache
def uninterrupted() -> tuple[dict[str, torch.Tensor], Any]:
    """Return the weights of a run that was not interrupted, and the state that one leaves that was."""
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder))
        state = loaded((Path(folder) / "state.pt").read_bytes())
        return resumed(Path(folder)).state_dict(), state


@target("run.state", {"state.pt": damaged_run_state, "journal.jsonl": damaged_bytes}, write_state)
def read_state(folder: Path) -> None:
    weights, sound = uninterrupted()
    path = folder / "state.pt"
    given = loaded(path.read_bytes()) if path.is_file() and _loads(path) else None
    ended = resumed(folder).state_dict()
    assert all(torch.isfinite(value).all() for value in ended.values()), "it ended in no numbers"
    if given is None or same(given, sound):
        assert same(ended, weights), "another end than that of the run which was not interrupted"


def _loads(path: Path) -> bool:
    try:
        loaded(path.read_bytes())
    except Exception:
        return False
    return True


def same(one: Any, other: Any) -> bool:
    """Return whether plain data with tensors is the same; seconds that something took may differ."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return type(one) is type(other) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in one if name not in ("spent", "seconds")]
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in names)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def write_store(folder: Path) -> None:
    manifest = Manifest(
        teacher="t" * 64,
        architecture="cnn",
        data="d" * 64,
        examples=5,
        image_shape=(1, 4, 4),
        num_classes=3,
        seed=0,
        augmentation="None",
        views=2,
        gradient_of="loss",
        precision="fp32",
        dtype="fp16",
        downsample=2,
        shard_examples=3,
        batch_size=2,
        device="cpu",
        version="0",
    )
    store = Store.create(folder, manifest)
    for shard in store.shards:
        rows = np.zeros(shard.stop - shard.start, store.row)
        rows["logits"], rows["scale"], rows["gradient"] = 1.0 + shard.view, 1.0, 0.5
        store.write(shard, [rows])


@target(
    "cache",
    {
        "manifest.json": damaged_json,
        "view-0/00000.npy": damaged_bytes,
        "view-0/00000.json": damaged_json,
        "view-1/00001.npy": damaged_bytes,
    },
    write_store,
)
def read_store(folder: Path) -> None:
    teacher = CachedTeacher.open(folder)
    manifest = teacher.store.manifest
    if manifest.image_shape != (1, 4, 4):
        return
    for view in range(2):
        batch = Batch(torch.zeros(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64), torch.arange(5), view)
        signal = teacher(batch)
        assert (signal.logits == 1.0 + view).all(), "wrong logits"
        assert signal.input_gradient is None or (signal.input_gradient == 0.5).all(), "wrong gradients"


KEY, OUTCOME = {"task": "pgd-20", "example": 3, "eps": 0.1}, {"correct": [True, False, True], "loss": 0.25}


def write_portion(folder: Path) -> None:
    ResultCache(folder).put(KEY, OUTCOME)
    next(folder.glob("*.json")).rename(folder / "portion.json")


@target("portion", {"portion.json": damaged_json}, write_portion)
def read_portion(folder: Path) -> str | None:
    from kdiga.runs.work_units import key_hash

    named = folder / f"{key_hash(KEY)}.json"
    if (folder / "portion.json").exists():
        (folder / "portion.json").rename(named)
    found = ResultCache(folder).get(KEY)
    # Portions of earlier versions have no sum.
    assert found in (None, OUTCOME) or "sum" not in json.loads(named.read_text()), "another outcome than was put there"
    return None if found else "done again"
