"""Folders of class folders, and ImageNet, which is one that users have to fetch themselves."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdiga.data.file_set import FileSet
from kdiga.data.reading import Reading, read
from kdiga.data.registry import PATHS, DataSet, in_two_parts, register_files, roots
from kdiga.decoding import DecodeItem
from kdiga.errors import InputError, some

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
TEST_NAMES = ("test", "val")
NAMED = 5  # classes that a message names
IMAGENET_CLASSES, IMAGENET_SIZE = 1000, 224
IMAGENET_BY_HAND = (
    "get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org (their terms have to be "
    "accepted) and unpack them to FOLDER/train/n01440764/*.JPEG and FOLDER/val/n01440764/*.JPEG, a folder for each of "
    "the 1,000 classes by its WordNet id in both; then give FOLDER as data.root, --root or $KDIGA_DATA"
)


@dataclass(frozen=True)
class Files:
    """Image files below one folder; ``names`` are relative to it, with "/" between their parts."""

    root: str
    names: Sequence[str]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.names)

    def item(self, row: int) -> DecodeItem:
        """Return the path of a file, also as its name in messages."""
        path = f"{self.root}/{self.names[row]}"
        return DecodeItem(path, path)

    def key(self, row: int) -> str:
        """Return the path of a file within the folder."""
        return self.names[row]

    def length(self, row: int) -> int:
        """Return the size of a file in bytes; 0 for a missing one, which decoding names."""
        path = Path(self.root, self.names[row])
        return path.stat().st_size if path.is_file() else 0


@dataclass(frozen=True)
class Scan:
    """Content of a folder of class folders: relative paths of the images, and the number of other files by suffix."""

    folder: Path
    classes: Sequence[str]
    names: Sequence[str]
    labels: Sequence[int]
    ignored: Counter[str]

    def read(self, reading: Reading) -> tuple[FileSet, list[str]]:
        """Return the images as a set on disk, and notes on what was left out."""
        storage = Files(str(self.folder), self.names)
        files, notes = read(storage, torch.tensor(self.labels), self.classes, reading)
        if self.ignored:
            common = self.ignored.most_common(4)
            kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in common)
            notes.insert(0, f"ignored, being no images: {self.ignored.total():,} ({kinds}) in {self.folder}")
        return files, notes


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


def load_folder(path: Path, reading: Reading, *, name: str | None = None) -> DataSet:
    """Return the images of ``path/train`` and ``path/test`` (or ``path/val``), each a folder of class folders.

    Where there is no such pair, ``path`` itself holds the class folders, and a fifth of each class, always the same,
    becomes the test part.

    Raises:
        InputError: for no images, parts with different classes, classes without images, images that cannot be read
            (now, or when they are first used), or images of unequal size where no ``image_size`` is given.
    """
    train, test = path / "train", next((path / name for name in TEST_NAMES if (path / name).is_dir()), None)
    if train.is_dir() and test is not None:
        scans = [scan(train), scan(test)]
        _check_same_folders(*scans)
    else:
        scans = [scan(path)]
    found = [one.read(reading) for one in scans]
    notes = [note for _, some_notes in found for note in some_notes]
    return in_two_parts(
        name or str(path), [files for files, _ in found], reading, source=str(path.resolve()), notes=notes
    )


@register_files(PATHS)
def load_path(name: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the images of the folder at a path."""
    del root
    return load_folder(Path(name).expanduser(), reading)


def find_imagenet(root: Path | None) -> str | None:
    """Return the folder with ImageNet's train and val."""
    places = (place for folder in roots(root) for place in (folder, folder / "imagenet"))
    return next((str(place) for place in places if (place / "train").is_dir() and (place / "val").is_dir()), None)


@register_files("imagenet", find_imagenet)
def load_imagenet(name: str, root: Path | None, reading: Reading) -> DataSet:
    """Return ImageNet-1k (Russakovsky et al. 2015), its validation images as the test part; 224 pixels by default."""
    found = find_imagenet(root)
    if found is None:
        places = ", ".join(dict.fromkeys(map(str, roots(root))))
        raise InputError(f"imagenet is not in {places}; {IMAGENET_BY_HAND}.")
    folder = Path(found, "train")
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    odd = sorted(name for name in names if not re.fullmatch(r"n\d{8}", name))
    if odd or len(names) != IMAGENET_CLASSES:
        raise InputError(
            f"{str(folder)!r} has {len(names)} class folders{f', {odd[0]!r} among them' if odd else ''}; ImageNet has "
            "1,000, named by WordNet ids such as n01440764. Give a part of it by its path as data.name."
        )
    return load_folder(Path(found), replace(reading, image_size=reading.image_size or IMAGENET_SIZE), name=name)


def _check_same_folders(one: Scan, other: Scan) -> None:
    differing = sorted(set(one.classes) ^ set(other.classes))
    if differing:
        places = [f"{name} only in {one.folder if name in one.classes else other.folder}" for name in differing]
        raise InputError(
            f"{str(one.folder)!r} and {str(other.folder)!r} have different class folders: {some(differing, NAMED)} "
            f"({places[0]}); both need the same."
        )


def _images_below(folder: str, name: str, ignored: Counter[str]) -> list[str]:
    """Return the images in a class folder and the folders in it, sorted, and count other files."""
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
