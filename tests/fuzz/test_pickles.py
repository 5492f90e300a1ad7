"""A pickle that would create a file is refused through every door, and the file is never there."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kdiga
from kdiga.data import ImageSet
from kdiga.data.extra import load_extra
from kdiga.data.reading import Reading
from kdiga.errors import InputError
from kdiga.models import save_model
from kdiga.results.explanations import read_gallery
from kdiga.results.fields import DamagedError
from kdiga.teachers import CachedTeacher
from tests.fuzz.states import resumed, write_state, write_store
from tests.fuzz.weights import small

SHAPE = {"in_channels": 1, "image_size": 8, "num_classes": 4, "normalization": "none"}


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def proof(tmp_path):
    """The file that must not be there; that the payload works is shown first."""
    path = tmp_path / "proof"
    pickle.loads(pickle.dumps(Evil(path)))
    assert path.exists(), "the payload does nothing, so the test shows nothing"
    path.unlink()
    yield path
    assert not path.exists(), "the pickle ran"


def bare(path, proof):
    path.write_bytes(pickle.dumps({"w": Evil(proof)}))


def zipped(path, proof):
    torch.save({**small().network.state_dict(), "x": Evil(proof)}, path)


def legacy(path, proof):
    torch.save({"state_dict": {"w": Evil(proof)}}, path, _use_new_zipfile_serialization=False)


WAYS = [bare, zipped, legacy]


@pytest.mark.parametrize("suffix", ["pt", "pth", "th", "ckpt", "bin", "safetensors", "onnx", "pkl"])
@pytest.mark.parametrize("way", WAYS)
def test_weights(tmp_path, proof, way, suffix):
    path = tmp_path / f"w.{suffix}"
    way(path, proof)
    for load in (
        lambda: kdiga.load_model("cnn-4", weights=path, **SHAPE),
        lambda: kdiga.load_model(path),
        lambda: kdiga.load_model(f"file:{path}"),
    ):
        with pytest.raises(InputError, match=r"w\.\w+"):
            load()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_weights_in_a_run(tmp_path, proof, way, name):
    way(tmp_path / name, proof)
    with pytest.raises(InputError, match=name):
        kdiga.load_model(tmp_path, which=name.partition(".")[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_a_copy_of_the_hub(tmp_path, proof, way, name):
    way(tmp_path / name, proof)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(InputError, match=name):
        kdiga.load_model(f"hf-hub:{tmp_path}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", [None, "best_state", "student"])
def test_the_state_of_a_run(tmp_path, proof, key):
    folder = tmp_path / "run"
    write_state(folder)
    state = torch.load(folder / "state.pt", weights_only=True)
    if key is None:
        bare(folder / "state.pt", proof)
    else:
        (state["progress"] if key == "best_state" else state)[key] = Evil(proof)
        torch.save(state, folder / "state.pt")
    with pytest.raises(InputError, match="cannot be continued from"):
        resumed(folder)


@pytest.mark.parametrize("image", [True, False])
def test_npz_with_objects(tmp_path, proof, image):
    path = tmp_path / "x.npz"
    evil = np.array([Evil(proof)] * 2, dtype=object)
    arrays = {
        "image": evil if image else np.zeros((2, 8, 8, 1), np.uint8),
        "label": np.zeros(2, int) if image else evil,
    }
    np.savez(path, allow_pickle=True, **arrays)
    grey = ImageSet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), "ab")
    with pytest.raises(InputError, match="cannot be read"):
        load_extra(path, grey, Reading(workers=0))
    with pytest.raises(DamagedError, match="cannot be read"):
        read_gallery(path, 1)
    path.write_bytes(pickle.dumps(Evil(proof)))
    with pytest.raises(InputError, match="cannot be read"):
        load_extra(path, grey, Reading(workers=0))


def test_a_store_of_objects(tmp_path, proof):
    write_store(tmp_path / "store")
    shard = tmp_path / "store/view-0/00000.npy"
    np.save(shard, np.array([Evil(proof)] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"00000\.npy"):
        CachedTeacher.open(tmp_path / "store")


def test_the_metadata_of_safetensors_chooses_no_file(tmp_path, proof):
    """A spec may name an architecture of timm's and its options, but none that timm would load a file by."""
    zipped(tmp_path / "evil.pth", proof)
    for option in ({"checkpoint_path": str(tmp_path / "evil.pth")}, {"pretrained": True}, {"pretrained_cfg": "x"}):
        model = small()
        model.spec = replace(model.spec, name="timm:resnet18", options=option)
        save_model(model, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=next(iter(option))):
            kdiga.load_model(tmp_path / "w.safetensors")


def test_a_zip_that_unpacks_to_far_more_is_not_unpacked(tmp_path):
    buffer, path = io.BytesIO(), tmp_path / "w.pt"
    torch.save({"w": torch.zeros(2_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="unpacks to far more than its size"):
        kdiga.load_model("cnn-4", weights=path, **SHAPE)
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("image.npy", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match="unpacks to"):
        read_gallery(tmp_path / "x.npz", 1)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_flipped_bit_is_found(tmp_path, suffix):
    path, model = tmp_path / f"w.{suffix}", small()
    if suffix == "pt":
        torch.save(model.network.state_dict(), path)
    else:
        save_model(model, path)
    content = bytearray(path.read_bytes())
    weight = next(model.network.parameters()).detach().numpy().tobytes()
    content[content.index(weight) + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        kdiga.load_model(path) if suffix == "safetensors" else kdiga.load_model("cnn-4", weights=path, **SHAPE)


def odd(change):
    state = dict(small().network.state_dict())
    name = next(iter(state))
    with warnings.catch_warnings(action="ignore"):
        state[name] = change(state[name])
    return state


ODD = {
    "NaN": lambda value: value * float("nan"),
    "other kinds": lambda value: value.to(torch.int8),
    "not a plain tensor": lambda value: value.to(torch.complex64),
    "not a plain tensor ": lambda value: value.to_sparse(),
    "not a plain tensor  ": lambda value: torch.empty_like(value, device="meta"),
}


@pytest.mark.parametrize("reason", ODD)
def test_tensors_that_copying_would_change_are_refused(tmp_path, reason):
    torch.save(odd(ODD[reason]), tmp_path / "w.pt")
    with pytest.raises(InputError, match=reason.strip()):
        kdiga.load_model("cnn-4", weights=tmp_path / "w.pt", **SHAPE)


def test_a_state_dict_within_itself_is_no_endless_search(tmp_path):
    held = {}
    held["model"] = held
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        kdiga.load_model("cnn-4", weights=tmp_path / "w.pt", **SHAPE)


def test_a_spec_of_a_huge_network_takes_no_memory(tmp_path):
    model = small()
    model.spec = replace(model.spec, num_classes=10**10)
    save_model(model, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="does not fit the model"):
        kdiga.load_model(tmp_path / "w.safetensors")
