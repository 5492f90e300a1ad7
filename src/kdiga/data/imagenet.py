"""ImageNet's 1,000 classes (Russakovsky et al. 2015), which everyone has to fetch themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kdiga.data.class_folders import load_folder
from kdiga.data.places import roots
from kdiga.data.reading import Reading
from kdiga.data.registry import DataSet, register_files
from kdiga.errors import InputError

CLASSES, IMAGE_SIZE = 1000, 224
BY_HAND = (
    "get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org (their terms have to be "
    "accepted) and unpack them to FOLDER/train/n01440764/*.JPEG and FOLDER/val/n01440764/*.JPEG, a folder for each of "
    "the 1,000 classes by its WordNet id in both; then give FOLDER as data.root, --root or $KDIGA_DATA"
)


def find_imagenet(root: Path | None) -> str | None:
    """Return the folder that holds train and val."""
    place = _find(root)
    return None if place is None else str(place)


def _find(root: Path | None) -> Path | None:
    places = (place for folder in roots(root) for place in (folder, folder / "imagenet"))
    return next((place for place in places if (place / "train").is_dir() and (place / "val").is_dir()), None)


@register_files("imagenet", find_imagenet)
def load_imagenet(name: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the training and validation images; the latter are the test part. 224 pixels unless asked otherwise."""
    place = _find(root)
    if place is None:
        places = ", ".join(dict.fromkeys(map(str, roots(root))))
        raise InputError(f"imagenet is not in {places}; {BY_HAND}.")
    _check_classes(place / "train")
    return load_folder(place, replace(reading, image_size=reading.image_size or IMAGE_SIZE), name=name)


def _check_classes(folder: Path) -> None:
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    odd = sorted(name for name in names if not re.fullmatch(r"n\d{8}", name))
    if odd or len(names) != CLASSES:
        raise InputError(
            f"{str(folder)!r} has {len(names)} class folders{f', {odd[0]!r} among them' if odd else ''}; ImageNet has "
            "1,000, named by WordNet ids such as n01440764. Give a part of it by its path as data.name."
        )
