"""Doors that weights come in by: torch's files, safetensors, ONNX, the state of an interrupted run, stored teachers."""

from __future__ import annotations

import io
import json
import struct
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import kdiga
from kdiga.data import ImageSet
from kdiga.models import build, save_model
from kdiga.models.registry import ModelSpec
from kdiga.modes import seeded
from kdiga.portions import Shelf
from kdiga.teachers import CachedTeacher, Manifest, Store
from kdiga.types import Batch, ThreatModel
from tests.fuzz.mutations import FOREIGN, damaged_bytes, damaged_json, damaged_tree
from tests.fuzz.target import target

SPEC = ModelSpec("cnn-4", num_classes=4, in_channels=1, image_size=8)
IMAGES = torch.full((2, 1, 8, 8), 0.5)


def small() -> Any:
    with seeded(3):
        return build(SPEC)


def images() -> ImageSet:
    with seeded(4):
        pixels, labels = torch.rand(40, 1, 8, 8) * 0.1, torch.arange(40) % 4
        for row, label in enumerate(labels.tolist()):
            pixels[row, :, 2 * label : 2 * label + 2] += 0.8
        return ImageSet(pixels, labels, "abcd")


def strange_tensors(old: torch.Tensor, random: Random) -> object:
    """Return a tensor that is no weight, or something that is no tensor."""
    with warnings.catch_warnings(action="ignore"):
        return random.choice([
            lambda: old.to(torch.complex64), lambda: old.to(torch.int8), lambda: old > 0, lambda: old * float("nan"),
            lambda: old * float("inf"), lambda: old.half(), lambda: old.bfloat16(), lambda: old.double(),
            lambda: old.to_sparse(), lambda: torch.empty_like(old, device="meta"), lambda: old.flatten(),
            lambda: old[:0], lambda: torch.zeros(1).expand(10**12), lambda: old.to(torch.float8_e4m3fn),
            lambda: torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8),
            lambda: old.mT if old.dim() > 1 else old[None],
            lambda: torch.zeros(()), lambda: torch.nn.Parameter(old.float()), lambda: random.choice(FOREIGN),
            lambda: torch.zeros(1).expand(tuple(old.shape)), lambda: old.numpy(),
        ])()  # fmt: skip


def damaged_state(state: dict[str, Any], random: Random) -> object:
    """Return a state dict with one to three changes."""
    state = dict(state)
    for _ in range(random.choice([1, 1, 2, 3])):
        name = random.choice(list(state) or ["x"])
        way = random.randrange(10)
        if way == 0:
            state.pop(name, None)
        elif way == 1:
            state[random.choice(["x", "module." + str(name), "", 3, None, "mu", "std", "../x", ("a",)])] = state.pop(
                name, None
            )
        elif way == 2:
            state = {f"module.{key}": value for key, value in state.items()}
        elif way == 3:
            mean = random.choice(
                [
                    torch.zeros(1),
                    torch.zeros(1).expand(10**12),
                    torch.zeros(3),
                    torch.tensor([float("nan")]),
                    torch.zeros(1, dtype=torch.complex64),
                    torch.empty(1, device="meta"),
                ]
            )
            state |= {"mu": mean, "sigma": random.choice([mean, torch.ones(1), torch.zeros(0)])}
        elif isinstance(state.get(name), torch.Tensor):
            state[name] = strange_tensors(state[name], random)
    wrap = random.randrange(8)
    if wrap == 0:
        return {random.choice(["state_dict", "model", "net"]): state, "epoch": random.choice(FOREIGN)}
    if wrap == 1:
        return random.choice(
            [[state], [[state]], [], {}, {"state_dict": []}, (state,), {"state_dict": {"model": [state]}}]
        )
    return state


def loaded(content: bytes) -> Any:
    """Return what torch.save wrote.

    A damaged sparse tensor that torch refused makes it refuse the next file of the process, whatever that holds.
    """
    try:
        return torch.load(io.BytesIO(content), weights_only=True)
    except RuntimeError:
        return torch.load(io.BytesIO(content), weights_only=True)


def damaged_pt(content: bytes, random: Random) -> bytes:
    """Return a file of torch.save, its tensors, form or bytes changed."""
    if random.random() < 0.4:
        return damaged_bytes(content, random)
    state = loaded(content)
    new, buffer = random.random() < 0.7, io.BytesIO()
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.save(damaged_state(state, random), buffer, _use_new_zipfile_serialization=new)
    except Exception:  # torch cannot write everything
        return damaged_bytes(content, random)
    return damaged_bytes(buffer.getvalue(), random) if random.random() < 0.3 else buffer.getvalue()


def damaged_legacy(content: bytes, random: Random) -> bytes:
    """Return a file in the format before PyTorch 1.6, nearly all of it a pickle, with other bytes."""
    state, buffer = loaded(content), io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return damaged_bytes(buffer.getvalue(), random)


def damaged_safetensors(content: bytes, random: Random) -> bytes:
    """Return a safetensors file with a damaged header, spec or bytes."""
    if random.random() < 0.2:
        return damaged_bytes(content, random)
    length = struct.unpack("<Q", content[:8])[0]
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    if random.random() < 0.7:
        about = json.loads(header["__metadata__"]["kdiga"])
        about["spec"].setdefault("options", {})
        about["spec"].setdefault("classes", [])
        header["__metadata__"]["kdiga"] = json.dumps(damaged_tree(about, random))
    else:
        header = damaged_tree(header, random)
    text = json.dumps(header).encode()
    told = len(text) if random.random() < 0.9 else random.choice([0, 1, 2**63, 2**40, len(text) + 1])
    return struct.pack("<Q", told) + text + rest


def forwarded(model: Any) -> None:
    with torch.no_grad():
        model(IMAGES)


@target("weights.pt", {"w.pt": damaged_pt}, lambda folder: torch.save(small().network.state_dict(), folder / "w.pt"))
def read_pt(folder: Path) -> None:
    shape = {"in_channels": 1, "image_size": 8, "num_classes": 4}
    forwarded(kdiga.load_model("cnn-4", weights=folder / "w.pt", normalization="none", **shape))


@target(
    "weights.legacy", {"w.pt": damaged_legacy}, lambda folder: torch.save(small().network.state_dict(), folder / "w.pt")
)
def read_legacy(folder: Path) -> None:
    read = kdiga.load_model(
        "cnn-4", weights=folder / "w.pt", normalization="none", in_channels=1, image_size=8, num_classes=4
    )
    forwarded(read)


@target("weights.named", {"w.pt": damaged_pt}, lambda folder: torch.save(
    {**small().network.state_dict(), "mu": torch.zeros(1), "sigma": torch.ones(1)}, folder / "w.pt"))  # fmt: skip
def read_named(folder: Path) -> None:
    kdiga.load_model("cnn-4", weights=folder / "w.pt", matched="order", in_channels=1, image_size=8, num_classes=4)


@target(
    "weights.safetensors",
    {"w.safetensors": damaged_safetensors},
    lambda folder: save_model(small(), folder / "w.safetensors"),
)
def read_safetensors(folder: Path) -> None:
    model = kdiga.load_model(folder / "w.safetensors")
    if model.spec.takes[:2] == (1, 8):
        forwarded(model)


@target("weights.foreign", {"w.safetensors": damaged_safetensors}, lambda folder: save_file(
    dict(small().network.state_dict()), folder / "w.safetensors", metadata={"kdiga": '{"spec": {}}'}))  # fmt: skip
def read_foreign(folder: Path) -> None:
    kdiga.load_model(
        "cnn-4", weights=folder / "w.safetensors", normalization="none", in_channels=1, image_size=8, num_classes=4
    )


def write_onnx(folder: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    state = small().network.state_dict()
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in state.items()]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [], tensors)
    onnx.save(helper.make_model(graph), str(folder / "w.onnx"))


@target("weights.onnx", {"w.onnx": damaged_bytes}, write_onnx)
def read_onnx(folder: Path) -> None:
    forwarded(
        kdiga.load_model(
            "cnn-4", weights=folder / "w.onnx", normalization="none", in_channels=1, image_size=8, num_classes=4
        )
    )


class StoppedError(Exception):
    """Ends a run in the middle."""


def resumed(folder: Path, *, stop: int | None = None) -> Any:
    """Train two epochs of two steps, from the state in the folder if there is one."""
    student, data = small(), images()

    def on_step(done: int, _steps: int) -> None:
        if done == stop:
            raise StoppedError

    return kdiga.distill(
        student, None, data, method="ce", epochs=3, batch_size=20, lr=0.02, threat=ThreatModel("linf", 0.01),
        out=folder, resume=True, validation=data, validation_steps=1, route="exact", compile=False, precision="fp32",
        channels_last=False, device="cpu", on_step=on_step, select="clean", save_every=0,
    )  # fmt: skip


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


@target("run.state", {"state.pt": damaged_run_state, "journal.jsonl": damaged_bytes}, write_state)
def read_state(folder: Path) -> None:
    resumed(folder)


def write_store(folder: Path) -> None:
    manifest = Manifest(
        teacher="t" * 64, architecture="cnn", data="d" * 64, examples=5, image_shape=(1, 4, 4), num_classes=3, seed=0,
        augmentation="None", views=2, gradient_of="loss", precision="fp32", dtype="fp16", downsample=2,
        shard_examples=3, batch_size=2, device="cpu", version="0",
    )  # fmt: skip
    store = Store.create(folder, manifest)
    for shard in store.shards:
        rows = np.zeros(shard.stop - shard.start, store.row)
        rows["logits"], rows["scale"], rows["gradient"] = 1.0 + shard.view, 1.0, 0.5
        store.write(shard, [rows])


@target("cache", {
    "manifest.json": damaged_json, "view-0/00000.npy": damaged_bytes, "view-0/00000.json": damaged_json,
    "view-1/00001.npy": damaged_bytes,
}, write_store)  # fmt: skip
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
    Shelf(folder).put(KEY, OUTCOME)
    next(folder.glob("*.json")).rename(folder / "portion.json")


@target("portion", {"portion.json": damaged_json}, write_portion)
def read_portion(folder: Path) -> str | None:
    from kdiga.portions import name_of

    named = folder / f"{name_of(KEY)}.json"
    if (folder / "portion.json").exists():
        (folder / "portion.json").rename(named)
    found = Shelf(folder).get(KEY)
    # Portions of earlier versions have no sum.
    assert found in (None, OUTCOME) or "sum" not in json.loads(named.read_text()), "another outcome than was put there"
    return None if found else "done again"
