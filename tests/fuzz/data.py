"""Images: .npz files, IDX files, tar shards, folders of pictures."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

import kdiga
from kdiga.data import ImageSet
from kdiga.data.extra import load_extra
from kdiga.data.mnist import _read_idx
from kdiga.data.reading import Reading
from tests.fuzz.mutations import TEXTS, damaged_bytes
from tests.fuzz.target import target
from tests.fuzz.weights import images

STRANGE = [
    np.array([object()] * 2), np.array(["x"] * 2), np.zeros((0,)), np.zeros((2, 0, 8, 1), np.uint8), np.array(3),
    np.full((2, 8, 8, 1), np.nan), np.zeros((2, 8, 8, 1), np.complex64), np.arange(2) - 5, np.array([2**60, 1]),
    np.zeros((2, 8, 9, 1), np.uint8), np.zeros(2, [("a", "f4")]), np.zeros((2, 8, 8, 1), "V3"), np.zeros(2, "M8[s]"),
    np.zeros((2, 1, 14, 14)), np.full((2, 1, 14, 14), np.inf), np.array([1e300, 2]),
    np.array(["x", "<script>alert(1)</script>"]),
]  # fmt: skip


def damaged_npz(content: bytes, random: Random) -> bytes:
    """Return an .npz with other arrays, an array's header rewritten, packed zeros, or other bytes."""
    way = random.randrange(5)
    if way == 0:
        return damaged_bytes(content, random)
    with np.load(io.BytesIO(content)) as held:
        arrays = {name: held[name] for name in held.files}
    name, buffer = random.choice(list(arrays)), io.BytesIO()
    if way == 1:
        arrays[random.choice([name, "x", "labels"])] = random.choice(STRANGE)
    elif way == 2:
        arrays[name] = random.choice([arrays[name][:1], arrays[name].astype("U4"), arrays[name].T, arrays[name][None]])
    elif way == 3:
        del arrays[name]
    np.savez(buffer, allow_pickle=True, **arrays)
    if way != 4:
        return buffer.getvalue()
    parts = zipfile.ZipFile(buffer)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for one in parts.namelist():
            held = parts.read(one)
            if one == f"{name}.npy":
                shape = random.choice([b"(10000000000,)", b"(-1,)", b"(99999,99999)", b"()", b"(2,2", b"(None,)"])
                kind = random.choice([b"'|u1'", b"'|O'", b"'<f8'", b"'<U9999999'", b"'|V9999999999'", b"[]", b"x"])
                text = b"{'descr': " + kind + b", 'fortran_order': False, 'shape': " + shape + b", }\n"
                held = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + held[-64:]
            packed.writestr(one, held)
    return out.getvalue()


@target("data.npz", {"x.npz": damaged_npz}, lambda folder: np.savez(
    folder / "x.npz", image=np.zeros((4, 8, 8, 1), np.uint8), label=np.arange(4)))  # fmt: skip
def read_npz(folder: Path) -> None:
    found = load_extra(folder / "x.npz", images(), Reading(workers=0))
    assert isinstance(found, ImageSet)
    for batch in found.batches(2):
        assert 0 <= int(batch[1].min()) <= int(batch[1].max()) < 4


def write_idx(folder: Path) -> None:
    (folder / "x").write_bytes(b"\0\0\x08\3" + struct.pack(">3i", 4, 8, 8) + bytes(256))


@target("data.idx", {"x": damaged_bytes}, write_idx)
def read_idx(folder: Path) -> None:
    _read_idx(folder / "x")


def picture(number: int, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 20 % 256, 3, 9)).save(buffer, kind)
    return buffer.getvalue()


def write_pictures(folder: Path) -> None:
    for label in "ab":
        for number in range(6):
            path = folder / f"set/{label}/{number}.{'png' if number else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number, "png" if number else "jpeg"))


@target("data.folder", {
    "set/a/0.jpg": damaged_bytes, "set/a/1.png": damaged_bytes, "set/b/2.png": damaged_bytes,
}, write_pictures)  # fmt: skip
def read_pictures(folder: Path) -> None:
    for skip in (False, True):
        found = kdiga.load_data(str(folder / "set"), image_size=8, workers=0, skip_corrupt=skip, in_memory=True)
        next(iter(found.train.batches(4)))


def write_shards(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as tar:
        for number in range(10):
            for suffix, content in (("png", picture(number)), ("cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def damaged_tar(content: bytes, random: Random) -> bytes:
    """Return a tar file with other bytes, or a member of another name, size or kind."""
    if random.random() < 0.4:
        return damaged_bytes(content, random)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            held = old.extractfile(member).read()
            if random.random() < 0.15:
                way = random.randrange(4)
                if way == 0:
                    member.name = random.choice(["../x.png", "/x.cls", "x.json", "a" * 90 + ".png", "x.png", "003.cls"])
                elif way == 1:
                    member.type = random.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
                    member.linkname = random.choice(["/x", "../x", member.name, "004.png"])
                else:
                    held = random.choice(
                        [*TEXTS, "-1", "99999999999999999999", "1e3", '{"label": 1}', "9" * 5000]
                    ).encode("utf-8", "surrogatepass")
                    member.size = len(held)
            new.addfile(member, io.BytesIO(held))
    return buffer.getvalue()


@target("data.shards", {"x.tar": damaged_tar}, write_shards)
def read_shards(folder: Path) -> None:
    found = kdiga.load_data(f"wds:{folder}", image_size=8, workers=0, in_memory=True)
    next(iter(found.train.batches(4)))
