"""Images: .npz files, IDX files, tar shards, folders of pictures."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import torch
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
    np.array([object()] * 2),
    np.array(["x"] * 2),
    np.zeros((0,)),
    np.zeros((2, 0, 8, 1), np.uint8),
    np.array(3),
    np.full((2, 8, 8, 1), np.nan),
    np.zeros((2, 8, 8, 1), np.complex64),
    np.arange(2) - 5,
    np.array([2**60, 1]),
    np.zeros((2, 8, 9, 1), np.uint8),
    np.zeros(2, [("a", "f4")]),
    np.zeros((2, 8, 8, 1), "V3"),
    np.zeros(2, "M8[s]"),
    np.zeros((2, 1, 14, 14)),
    np.full((2, 1, 14, 14), np.inf),
    np.array([1e300, 2]),
    np.array(["x", "<script>alert(1)</script>"]),
]


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


@target(
    "data.npz",
    {"x.npz": damaged_npz},
    lambda folder: np.savez(folder / "x.npz", image=np.zeros((4, 8, 8, 1), np.uint8), label=np.arange(4)),
)
def read_npz(folder: Path) -> None:
    found = load_extra(folder / "x.npz", images(), Reading(workers=0))
    assert isinstance(found, ImageSet)
    with np.load(folder / "x.npz") as held:
        given, labels = held["image"], held["label"]
    pixels = torch.cat([batch[0] for batch in found.batches(2)])
    assert np.array_equal((pixels * 255).round().numpy(), given.transpose(0, 3, 1, 2)), "other pixels"
    told = torch.cat([batch[1] for batch in found.batches(2)])
    assert np.array_equal(told.numpy(), labels), "other labels"
    assert 0 <= labels.min() <= labels.max() < 4


def write_idx(folder: Path) -> None:
    (folder / "x").write_bytes(b"\0\0\x08\3" + struct.pack(">3i", 4, 8, 8) + bytes(range(256)))


@target("data.idx", {"x": damaged_bytes}, write_idx)
def read_idx(folder: Path) -> None:
    found, content = _read_idx(folder / "x"), (folder / "x").read_bytes()
    dimensions = struct.unpack(f">{content[3]}i", content[4 : 4 + 4 * content[3]])
    assert tuple(found.shape) == dimensions, "another shape"
    assert found.tobytes() == content[4 + 4 * content[3] :], "other values"


def picture(number: int, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 20 % 256, 3, 9)).save(buffer, kind)
    return buffer.getvalue()


def write_pictures(folder: Path) -> None:
    for label in "ab":
        for number in range(6):
            kind = "jpeg" if (label, number) == ("a", 0) else "png"
            path = folder / f"set/{label}/{number}.{kind.replace('e', '')}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number, kind))


@target(
    "data.folder",
    {
        "set/a/0.jpg": damaged_bytes,
        "set/a/1.png": damaged_bytes,
        "set/b/2.png": damaged_bytes,
    },
    write_pictures,
)
def read_pictures(folder: Path) -> None:
    for skip in (False, True):
        found = kdiga.load_data(str(folder / "set"), image_size=8, workers=0, skip_corrupt=skip, in_memory=True)
        check_pictures(found, "ab", {("a", 0), ("a", 1), ("b", 2)})


def check_pictures(found: kdiga.DataSet, classes: str, damaged: set[tuple[str, int]]) -> None:
    """Check that every picture that was left alone is there once, with its colour and its class."""
    seen = list[tuple[str, int]]()
    for part in (found.train, found.test):
        for batch in part.batches(4):
            for pixels, label in zip((batch[0] * 255).round(), batch[1].tolist(), strict=True):
                red, green, blue = pixels.flatten(1)
                if (green == 3).all() and (blue == 9).all() and red.unique().numel() == 1:
                    seen.append((part.classes[label], round(red[0].item()) // 20))
    for one in ((label, number) for label in classes for number in range(6)):
        assert one in damaged or seen.count(one) == 1, f"picture {one[1]} of {one[0]} is there {seen.count(one)} times"


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
    seen = Counter[tuple[bytes, int]]()
    for part in (found.train, found.test):
        for batch in part.batches(4):
            for pixels, label in zip((batch[0] * 255).round().to(torch.uint8), batch[1].tolist(), strict=True):
                seen[pixels.numpy().tobytes(), label] += 1
    pictures, labels = dict[str, bytes](), dict[str, int]()
    with tarfile.open(folder / "x.tar") as tar:
        for member in (one for one in tar if one.isfile()):
            key, _, suffix = member.name.rpartition(".")
            content = tar.extractfile(member).read()
            if suffix == "png":
                pictures[key] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1).tobytes()
            elif suffix == "cls":
                labels[key] = int(content)
    if all(len(one) == 3 * 8 * 8 for one in pictures.values()):  # others are cut
        told = Counter((one, labels.get(key, -1)) for key, one in pictures.items())
        assert all(seen[one] == count for one, count in told.items() if one[1] >= 0), "other pictures or labels"
