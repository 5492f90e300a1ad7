"""WebDataset shards: tar files in which an image and its label share a name. Read at random, not as a stream."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiga.data.file_set import FileSet
from kdiga.data.image_set import split
from kdiga.data.reading import Reading, read, settle
from kdiga.data.registry import DataSet, register_files
from kdiga.data.storage import Members
from kdiga.errors import InputError

IMAGES = {"jpg", "jpeg", "png", "webp", "ppm", "bmp"}
LABELS = {"cls", "json"}
JSON_KEYS = ("label", "cls", "class", "target")
MOST_CLASSES = 2**31
TEST_SHARE, TEST_SEED = 0.2, 0


@register_files("wds:")
def load_shards(pattern: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the images of all tar files in a folder, or of those that a pattern matches.

    Files whose name begins with "train" are the training part, with "val" or "test" the test part. Where no name
    begins so, a fifth of each class, always the same, becomes the test part.

    Args:
        pattern: a folder, a glob pattern, or one with ranges such as ``train-{0000..0009}.tar``.
        root: what a relative pattern begins in.
        reading: how.

    Raises:
        InputError: for no tar file, one that is compressed or damaged, or images without labels.
    """
    tars = _matching(pattern, root)
    train = [tar for tar in tars if tar.name.startswith("train")]
    test = [tar for tar in tars if tar.name.startswith(("val", "test"))]
    if bool(train) != bool(test) or (train and len(train) + len(test) < len(tars)):
        raise InputError(
            f"{pattern!r} matches {len(train)} tar files named train*, {len(test)} named val* or test* and "
            f"{len(tars) - len(train) - len(test)} others; give some of the first two kinds, or others alone."
        )
    parts, notes = list[FileSet](), list[str]()
    indexed = [_index(part) for part in ([train, test] if train else [tars])]
    count = 1 + max(int(labels.max()) for _, labels in indexed)
    for members, labels in indexed:
        files, told = read(members, labels, [str(number) for number in range(count)], reading)
        parts.append(files)
        notes += told
    first, second = parts if train else split(parts[0], TEST_SHARE, TEST_SEED)
    first, second = (
        settle(part.take(torch.randperm(len(part), generator=torch.Generator().manual_seed(0))), reading)
        for part in (first, second)
    )
    return DataSet(f"wds:{pattern}", first, second, f"{len(tars)} tar files, {tars[0].parent}", tuple(notes))


def _matching(pattern: str, root: Path | None) -> list[Path]:
    whole = str((root or Path()) / Path(pattern).expanduser())
    if Path(whole).is_dir():
        whole = f"{glob.escape(whole)}/*.tar"
    found = sorted({Path(path) for part in _ranges(whole) for path in glob.glob(part)})  # noqa: PTH207 (absolute too)
    if not found:
        raise InputError(f"{whole!r} matches no file; give a folder of .tar files or a pattern such as 'shards/*.tar'.")
    return found


def _ranges(pattern: str) -> list[str]:
    """Return the patterns that a pattern with one or more {FIRST..LAST} stands for."""
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
    """Return offset, size and label of each image in a tar file, by its name in there."""
    images, labels = dict[str, tuple[str, int, int]](), dict[str, int]()
    try:
        # Not "r": a compressed file would be read, and images in it cannot be found by their place.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if not member.isfile():
                    continue
                if suffix.lower() in IMAGES:
                    images[key] = member.name, member.offset_data, member.size
                elif suffix.lower() in LABELS:
                    held = tar.extractfile(member)
                    label = _label(b"" if held is None else held.read(), suffix.lower(), f"{path}:{member.name}")
                    if label is not None:
                        labels[key] = label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as an uncompressed tar file ({error}); unpack it, or fetch it again."
        ) from None
    without = sorted(images.keys() - labels.keys())
    if without:
        raise InputError(
            f"{str(path)!r} has {len(without)} images without a label, {images[without[0]][0]!r} for one; each needs "
            "a .cls file with its number, or a .json file with the number under 'label'."
        )
    return {name: (offset, size, labels[key]) for key, (name, offset, size) in images.items()}


def _label(content: bytes, suffix: str, name: str) -> int | None:
    """Return the class number in a label file; None for a .json file that has other things in it."""
    try:
        if suffix == "cls":
            label = int(content)
        else:
            found: Any = json.loads(content)
            given = [found[key] for key in JSON_KEYS if key in found] if isinstance(found, dict) else [found]
            if not given:
                return None
            if not isinstance(given[0], int | str) or isinstance(given[0], bool):
                raise ValueError("a part of a number is no class")
            label = int(given[0])
    except (ValueError, TypeError):
        raise InputError(f'{name!r} holds no class number; write it as 3, or as {{"label": 3}} in a .json.') from None
    if not 0 <= label < MOST_CLASSES:
        raise InputError(f"{name!r} holds the class number {label!s:.30}; they count from 0.")
    return label
