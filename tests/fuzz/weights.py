"""Doors that weights come in by: torch's files, safetensors, ONNX, the state of an interrupted run, stored teachers."""

from __future__ import annotations

import io
import json
import struct
import warnings
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import kdiga
from kdiga.data import ImageSet
from kdiga.model_state import seeded
from kdiga.models import build, save_model
from kdiga.models.classifier import ModelSpec
from tests.fuzz.mutations import FOREIGN, damaged_bytes, damaged_tree
from tests.fuzz.oracles import check_leaves, check_tensors, held_by, loaded
from tests.fuzz.target import target

SPEC = ModelSpec("cnn-4", num_classes=4, in_channels=1, image_size=8)
IMAGES = torch.full((2, 1, 8, 8), 0.5)
MANY = 10**6  # elements


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
    if old.numel() > MANY:  # expanded by an earlier change: what is made of each element would take hours
        return old
    with warnings.catch_warnings(action="ignore"):
        return random.choice(
            [
                lambda: old.to(torch.complex64),
                lambda: old.to(torch.int8),
                lambda: old > 0,
                lambda: old * float("nan"),
                lambda: old * float("inf"),
                lambda: old.half(),
                lambda: old.bfloat16(),
                lambda: old.double(),
                lambda: old.to_sparse(),
                lambda: torch.empty_like(old, device="meta"),
                lambda: old.flatten(),
                lambda: old[:0],
                lambda: torch.zeros(1).expand(10**12),
                lambda: old.to(torch.float8_e4m3fn),
                lambda: torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8),
                lambda: old.mT if old.dim() > 1 else old[None],
                lambda: torch.zeros(()),
                lambda: torch.nn.Parameter(old.float()),
                lambda: random.choice(FOREIGN),
                lambda: torch.zeros(1).expand(tuple(old.shape)),
                lambda: old.numpy(),
            ]
        )()


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


SHAPE = {"in_channels": 1, "image_size": 8, "num_classes": 4}


def from_file(path: Path, **options: Any) -> Any:
    """Return the network of a file that does not tell its own, after a pass."""
    model = kdiga.load_model("cnn-4", weights=path, normalization="none", **SHAPE, **options)
    forwarded(model)
    return model.network


def forwarded(model: Any) -> None:
    with torch.no_grad():
        model(IMAGES)


@target("weights.pt", {"w.pt": damaged_pt}, lambda folder: torch.save(small().network.state_dict(), folder / "w.pt"))
def read_pt(folder: Path) -> None:
    check_tensors(from_file(folder / "w.pt"), held_by(folder / "w.pt"))


@target(
    "weights.legacy", {"w.pt": damaged_legacy}, lambda folder: torch.save(small().network.state_dict(), folder / "w.pt")
)
def read_legacy(folder: Path) -> None:
    check_tensors(from_file(folder / "w.pt"), held_by(folder / "w.pt"))


@target(
    "weights.named",
    {"w.pt": damaged_pt},
    lambda folder: torch.save(
        {**small().network.state_dict(), "mu": torch.zeros(1), "sigma": torch.ones(1)}, folder / "w.pt"
    ),
)
def read_named(folder: Path) -> None:
    model = kdiga.load_model("cnn-4", weights=folder / "w.pt", matched="order", **SHAPE)
    check_tensors(model.network, held_by(folder / "w.pt"), by_name=False)


@target(
    "weights.safetensors",
    {"w.safetensors": damaged_safetensors},
    lambda folder: save_model(small(), folder / "w.safetensors"),
)
def read_safetensors(folder: Path) -> None:
    model = kdiga.load_model(folder / "w.safetensors")
    with safe_open(folder / "w.safetensors", framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = json.loads(file.metadata()["kdiga"])
    check_tensors(model, held)
    if about.get("sum"):
        check_tensors(model, small().state_dict())
    check_leaves(about["spec"], model.spec.to_dict())
    if model.spec.takes[:2] == (1, 8):
        forwarded(model)


@target(
    "weights.foreign",
    {"w.safetensors": damaged_safetensors},
    lambda folder: save_file(
        dict(small().network.state_dict()), folder / "w.safetensors", metadata={"kdiga": '{"spec": {}}'}
    ),
)
def read_foreign(folder: Path) -> None:
    network = from_file(folder / "w.safetensors")
    with safe_open(folder / "w.safetensors", framework="pt") as file:
        check_tensors(network, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a mapping)


def write_onnx(folder: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    state = small().network.state_dict()
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in state.items()]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [], tensors)
    onnx.save(helper.make_model(graph), str(folder / "w.onnx"))


@target("weights.onnx", {"w.onnx": damaged_bytes}, write_onnx)
def read_onnx(folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    network = from_file(folder / "w.onnx")
    held = onnx.load(str(folder / "w.onnx")).graph.initializer
    check_tensors(network, {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in held})
