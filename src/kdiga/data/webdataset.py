"""WebDataset shards: tar files in which an image and its label share a name. Read by position, not as a stream."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiga.data.reading import Reading, read
from kdiga.data.registry import DataSet, in_two_parts, note_on_unused, register_files
from kdiga.decoding import DecodeItem
from kdiga.errors import InputError
from kdiga.io.untrusted_file import check_ordinary

IMAGES = {"jpg", "jpeg", "png", "webp", "ppm", "bmp"}
LABELS = {"cls", "json"}
JSON_KEYS = ("label", "cls", "class", "target")
MOST_CLASSES = 2**31


@dataclass(frozen=True)
class Members:
    """Images in uncompressed tar files: for each, its name, number of the tar file, first byte and number of bytes."""

    archives: Sequence[str]
    names: Sequence[str]
    archive: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def item(self, row: int) -> DecodeItem:
        """Return the position of an image, and its name in messages."""
        archive = self.archives[int(self.archive[row])]
        place = str(Path(archive).absolute())  # decoders may have started in another folder
        return DecodeItem((place, int(self.offset[row]), int(self.size[row])), f"{archive}:{self.names[row]}")

    def key(self, row: int) -> str:
        """Return the names of the tar file and the image."""
        return f"{Path(self.archives[int(self.archive[row])]).name}:{self.names[row]}"

    def length(self, row: int) -> int:
        """Return the encoded size of an image in bytes."""
        return int(self.size[row])


@register_files("wds:")
def load_shards(pattern: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the images of all tar files in a folder, or of those that a pattern matches.

    Files whose name begins with "train" are the training part, with "test" or else "val" the test part. Where no name
    begins so, about a fifth, chosen by a hash of the names of file and image, becomes the test part.

    Args:
        pattern: A folder, a glob pattern, or a pattern with ranges such as ``train-{0000..0009}.tar``.
        root: Folder in which a relative pattern starts.
        reading: Options of the images.

    Raises:
        InputError: for no tar file, one that is compressed or damaged, images without labels, or a sample with two
            images or two different labels.
    """
    tars = _matching(pattern, root)
    train, test, val = ([tar for tar in tars if tar.name.startswith(part)] for part in ("train", "test", "val"))
    others = len(tars) - len(train) - len(test) - len(val)
    if bool(train) != bool(test or val) or (train and others):
        raise InputError(
            f"{pattern!r} matches {len(train)} tar files named train*, {len(test) + len(val)} named val* or test* and "
            f"{others} others; give some of the first two kinds, or others alone."
        )
    unused = [tar.name for tar in val if test]
    test = test or val
    indexed = [_index(part) for part in ([train, test] if train else [tars])]
    classes = [str(number) for number in range(1 + max(int(labels.max()) for _, labels in indexed))]
    found = [read(members, labels, classes, reading) for members, labels in indexed]
    notes = note_on_unused("train*", "test*", unused, str(tars[0].parent))
    source = f"{len(tars) - len(unused)} tar files, {tars[0].parent}"
    return in_two_parts(f"wds:{pattern}", found, reading, source=source, notes=notes)


def _matching(pattern: str, root: Path | None) -> list[Path]:
    whole = str((root or Path()) / Path(pattern).expanduser())
    if Path(whole).is_dir():
        whole = f"{glob.escape(whole)}/*.tar"
    found = sorted({Path(path) for part in _ranges(whole) for path in glob.glob(part)})  # noqa: PTH207 (absolute too)
    if not found:
        raise InputError(f"{whole!r} matches no file; give a folder of .tar files or a pattern such as 'shards/*.tar'.")
    return found


def _ranges(pattern: str) -> list[str]:
    """Return the patterns without ranges for a pattern with one or more {FIRST..LAST}."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [one for number in numbers for one in _ranges(pattern[: found.start()] + number + pattern[found.end() :])]


def _index(tars: Sequence[Path]) -> tuple[Members, torch.Tensor]:
    names, labels, places = list[str](), list[int](), list[tuple[int, int, int]]()
    for number, path in enumerate(tars):
        for name, (offset, size, label) in sorted(_samples(path).items()):
            names.append(name)
            places.append((number, offset, size))
            labels.append(label)
    if not names:
        raise InputError(f"the tar files in {str(tars[0].parent)!r} hold no images ({', '.join(sorted(IMAGES))}).")
    archive, offset, size = np.array(places, dtype=np.int64).T
    return Members([str(tar) for tar in tars], names, archive, offset, size), torch.tensor(labels)


def _samples(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return offset, size and label of each image in a tar file, by its name without suffix."""
    images, labels = dict[str, tuple[str, int, int]](), dict[str, tuple[str, int]]()
    try:
        check_ordinary(path)
        # Not "r": a compressed file would be read, and images in it have no position in the file.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if not member.isfile():
                    continue
                if suffix.lower() in IMAGES:
                    _add_image(images, key, (member.name, member.offset_data, member.size), path)
                elif suffix.lower() in LABELS:
                    file = tar.extractfile(member)
                    label = _label(b"" if file is None else file.read(), suffix.lower(), f"{path}:{member.name}")
                    if label is not None:
                        _add_label(labels, key, (member.name, label), path)
    except InputError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as an uncompressed tar file ({error}); unpack it, or fetch it again."
        ) from None
    without = sorted(images.keys() - labels.keys())
    if without:
        raise InputError(
            f"{str(path)!r} has {len(without)} images without a label, such as {images[without[0]][0]!r}; each needs "
            "a .cls file with its number, or a .json file with the number under 'label'."
        )
    return {name: (offset, size, labels[key][1]) for key, (name, offset, size) in images.items()}


def _add_image(images: dict[str, tuple[str, int, int]], key: str, image: tuple[str, int, int], path: Path) -> None:
    """Add name, offset and size of a sample's image; it has one."""
    if key in images:
        raise InputError(
            f"{str(path)!r} has two images of the sample {key!r}: {images[key][0]!r} and {image[0]!r}; take one out, "
            "or give the one that is not the input, such as a mask, a suffix that no image has."
        )
    images[key] = image


def _add_label(labels: dict[str, tuple[str, int]], key: str, label: tuple[str, int], path: Path) -> None:
    """Add name and number of a sample's label; several files must hold the same number."""
    name, number = labels.setdefault(key, label)
    if number != label[1]:
        raise InputError(
            f"{str(path)!r} has two labels of the sample {key!r}: {number} in {name!r} and {label[1]} in "
            f"{label[0]!r}; take one out."
        )


def _label(content: bytes, suffix: str, name: str) -> int | None:
    """Return the class number in a label file; None for a .json file without one."""
    try:
        if suffix == "cls":
            label = int(content)
        else:
            found: Any = json.loads(content)
            given = [found[key] for key in JSON_KEYS if key in found] if isinstance(found, dict) else [found]
            if not given:
                return None
            if not isinstance(given[0], int | str) or isinstance(given[0], bool):
                raise ValueError("a class is a whole number")
            label = int(given[0])
    except (ValueError, TypeError):
        raise InputError(f'{name!r} holds no class number; write it as 3, or as {{"label": 3}} in a .json.') from None
    if not 0 <= label < MOST_CLASSES:
        raise InputError(f"{name!r} holds the class number {label!s:.30}; they count from 0.")
    return label
