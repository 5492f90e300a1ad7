"""A folder of class folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kdiga.data.file_set import FileSet
from kdiga.data.image_set import split
from kdiga.data.reading import Reading, read, settle
from kdiga.data.registry import DataSet
from kdiga.data.storage import Files
from kdiga.errors import InputError, some

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
TEST_NAMES = ("test", "val")
TEST_SHARE, TEST_SEED = 0.2, 0
NAMED = 5  # classes that a message names


@dataclass(frozen=True)
class Scan:
    """What a folder of class folders holds.

    Args:
        folder: where.
        classes: names of the class folders, sorted.
        names: of the images, relative to the folder.
        labels: of each, its class folder's number.
        ignored: how many other files there are, by suffix.
    """

    folder: Path
    classes: Sequence[str]
    names: Sequence[str]
    labels: Sequence[int]
    ignored: Counter[str]


def load_folder(path: Path, reading: Reading, *, name: str | None = None) -> DataSet:
    """Return the images of ``path/train`` and ``path/test`` (or ``path/val``), each a folder of class folders.

    Where there is no such pair, ``path`` itself holds the class folders, and a fifth of each class,
    always the same, becomes the test part.

    Args:
        path: the folder.
        reading: how.
        name: of the data set; the path if None.

    Raises:
        InputError: for no images, parts with different classes, classes without images, images that cannot be read
            (now, or when they are first used), or images of unequal size where no ``image_size`` is given.
    """
    train, test = path / "train", next((path / name for name in TEST_NAMES if (path / name).is_dir()), None)
    if train.is_dir() and test is not None:
        scans = [scan(train), scan(test)]
        check_same_folders(*scans)
        found = [read_scan(one, reading) for one in scans]
        parts = [files for files, _ in found]
        notes = [note for _, told in found for note in told]
    else:
        whole, notes = read_scan(scan(path), reading)
        parts = split(whole, TEST_SHARE, TEST_SEED)
    # On disk the classes lie one after the other; shuffled once, so that "the first N" is a fair sample.
    first, second = (
        settle(part.take(torch.randperm(len(part), generator=torch.Generator().manual_seed(0))), reading)
        for part in parts
    )
    return DataSet(name or str(path), first, second, str(path.resolve()), tuple(notes))


def scan(folder: Path) -> Scan:
    """Return the images in a folder of class folders, sorted; folders whose name begins with a dot are left out.

    Raises:
        InputError: for fewer than two class folders, no image, or a class folder without any.
    """
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    names, labels, ignored = list[str](), list[int](), Counter[str]()
    for label, name in enumerate(classes):
        inside = _images_below(str(folder / name), name, ignored)
        names += inside
        labels += [label] * len(inside)
    if len(classes) < 2 or not names:
        raise InputError(
            f"{str(folder)!r} holds {len(classes)} class folders and {len(names)} images; give at least 2 and 1."
        )
    present = set(labels)
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise InputError(
            f"{str(folder)!r} has class folders without an image: {some(empty, NAMED)}; put images in, or remove them."
        )
    return Scan(folder, classes, names, labels, ignored)


def read_scan(found: Scan, reading: Reading) -> tuple[FileSet, list[str]]:
    """Return the images of a scan as a set on disk, and what there is to tell of it."""
    storage = Files(str(found.folder), found.names)
    files, told = read(storage, torch.tensor(found.labels), found.classes, reading)
    if found.ignored:
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in found.ignored.most_common(4))
        told.insert(0, f"ignored, being no images: {found.ignored.total():,} ({kinds}) in {found.folder}")
    return files, told


def check_same_folders(one: Scan, other: Scan) -> None:
    """Check that two folders have the same class folders.

    Raises:
        InputError: naming those that only one has.
    """
    differing = sorted(set(one.classes) ^ set(other.classes))
    if differing:
        places = [f"{name} only in {one.folder if name in one.classes else other.folder}" for name in differing]
        raise InputError(
            f"{str(one.folder)!r} and {str(other.folder)!r} have different class folders: {some(differing, NAMED)} "
            f"({places[0]}); both need the same."
        )


def _images_below(folder: str, name: str, ignored: Counter[str]) -> list[str]:
    """Return the images in a class folder and the folders in it, sorted, and count what else is there."""
    found = list[str]()
    for place, _, files in os.walk(folder):
        inside = name + place[len(folder) :].replace(os.sep, "/")
        for file in files:
            suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122 (a million Paths take a minute)
            if suffix in SUFFIXES:
                found.append(f"{inside}/{file}")
            else:
                ignored[suffix] += 1
    return sorted(found)
