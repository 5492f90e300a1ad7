"""Folders of class folders, and ImageNet, which is one that users have to fetch themselves."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdiga.data.file_set import FileSet
from kdiga.data.reading import Reading, read
from kdiga.data.registry import PATHS, DataSet, in_two_parts, note_on_unused, register_files, roots
from kdiga.decoding import DecodeItem
from kdiga.errors import InputError, some

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval")  # the first one that is there is used
PART_ENDING = re.compile(r"[ _-]?(set|data|images|split|part)$")
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")
LEAST_SHARED = 2  # folders that all class folders contain; one, such as "images", is a usual layout
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
        return DecodeItem(str(Path(path).absolute()), path)  # decoders may have started in another folder

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
            notes.insert(
                0, f"ignored, because they are not images: {self.ignored.total():,} ({kinds}) in {self.folder}"
            )
        self.check_no_class_is_empty(set(files.labels.tolist()))
        return files, notes

    def check_no_class_is_empty(self, present: set[int]) -> None:
        """Check that every class is among the labels that are present."""
        empty = [name for label, name in enumerate(self.classes) if label not in present]
        if empty:
            raise InputError(
                f"{str(self.folder)!r} has class folders without an image: {some(empty, NAMED)}; put images in, or "
                "remove them."
            )


def scan(folder: Path) -> Scan:
    """Return the images in a folder of class folders, sorted; hidden and system files and folders are left out.

    Raises:
        InputError: for fewer than two class folders, no image, or a class folder without any.
    """
    classes = folders_in(folder)
    names, labels, ignored = list[str](), list[int](), Counter[str]()
    for label, name in enumerate(classes):
        inside = sorted(images_below(str(folder / name), name, ignored))
        names += inside
        labels += [label] * len(inside)
    if len(classes) < 2 or not names:
        raise InputError(
            f"{str(folder)!r} holds {len(classes)} class folders and {len(names)} images; give at least 2 and 1."
        )
    found = Scan(folder, classes, names, labels, ignored)
    found.check_no_class_is_empty(set(labels))
    return found


def load_folder(path: Path, reading: Reading, *, name: str | None = None) -> DataSet:
    """Return the images of ``path/train`` and ``path/test``, each a folder of class folders.

    Other usual names of the two parts are known, such as ``training``, ``val`` and ``validation``, in any case. Where
    there is no such pair, ``path`` itself holds the class folders, and about a fifth of the images, chosen by a hash of
    their names, becomes the test part.

    Raises:
        InputError: for no images, parts with different classes, classes without images, images that cannot be read
            (now, or when they are first used), or images of unequal size where no ``image_size`` is given.
    """
    parts, notes = _parts(path)
    if parts is None:
        _check_no_parts(path)
        scans = [scan(path)]
    else:
        scans = [scan(part) for part in parts]
        _check_same_folders(*scans)
    found = [one.read(reading) for one in scans]
    return in_two_parts(name or str(path), found, reading, source=str(path.resolve()), notes=notes)


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


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden and system folders."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def name_of_part(name: str) -> str:
    """Return the name of a part of a data set without case and without an ending such as "_set"."""
    return PART_ENDING.sub("", name.casefold())


def _parts(path: Path) -> tuple[tuple[Path, Path] | None, list[str]]:
    """Return the folders of the train and the test part, None without such a pair, and a note on unused parts."""
    kinds = {name: name_of_part(name) for name in folders_in(path)}
    train = sorted((name for name in kinds if kinds[name] in TRAIN_NAMES), key=lambda name: kinds[name])
    test = sorted((name for name in kinds if kinds[name] in TEST_NAMES), key=lambda name: TEST_NAMES.index(kinds[name]))
    if not train or not test:
        return None, []
    unused = [name for name in kinds if name not in (train[0], test[0])]
    return (path / train[0], path / test[0]), note_on_unused(train[0], test[0], unused, str(path))


def _check_no_parts(path: Path) -> None:
    """Check that the folders in a folder are not parts of a data set with other names: they have the same folders."""
    names = folders_in(path)
    inside = [set(folders_in(path / name)) for name in names]
    shared = set[str]() if len(names) < 2 else set.intersection(*inside)
    if len(shared) >= LEAST_SHARED:
        raise InputError(
            f"the folders {some(names, NAMED)} in {str(path)!r} all contain the folders {some(sorted(shared), NAMED)}; "
            "are they parts of a data set, not classes? Name the parts train and test, or give the folder of one part."
        )


def images_below(folder: str, name: str, ignored: Counter[str]) -> Iterator[str]:
    """Yield the images in a class folder and the folders in it, and count other files and links to folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            inside, suffix = f"{name}/{entry.name}", os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (speed)
            if entry.is_dir(follow_symlinks=False):
                yield from images_below(entry.path, inside, ignored)
            elif entry.is_dir():
                ignored["link to a folder"] += 1
            elif suffix in SUFFIXES and entry.is_file():
                yield inside
            else:
                ignored[suffix] += 1
