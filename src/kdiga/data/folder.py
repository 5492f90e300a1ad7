"""A folder of class folders, read into memory once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from kdiga.data.images import ImageSet, split
from kdiga.data.sets import DataSet
from kdiga.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
TEST_SHARE, TEST_SEED = 0.2, 0


def load_folder(path: Path, image_size: int | None) -> DataSet:
    """Return the images of ``path/train`` and ``path/test`` (or ``path/val``), each a folder of class folders.

    Where there is no such pair, ``path`` itself holds the class folders, and a fifth of each class,
    always the same, becomes the test part.

    Raises:
        InputError: for no or unreadable images, parts with different classes, or images of unequal
            size where no ``image_size`` is given.
    """
    train = path / "train"
    test = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if train.is_dir() and test is not None:
        parts = _read(train, image_size), _read(test, image_size)
        if parts[0].classes != parts[1].classes:
            differing = sorted(set(parts[0].classes) ^ set(parts[1].classes))
            raise InputError(
                f"{str(train)!r} and {str(test)!r} have different class folders: {', '.join(differing[:5])}."
            )
    else:
        parts = split(_read(path, image_size), TEST_SHARE, TEST_SEED)
    # On disk the classes lie one after the other; shuffled once, so that "the first N" is a fair sample.
    first, second = (part.take(torch.randperm(len(part), generator=torch.Generator().manual_seed(0))) for part in parts)
    return DataSet(str(path), first, second, str(path.resolve()))


def _read(folder: Path, image_size: int | None) -> ImageSet:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    found = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if len(classes) < 2 or not found:
        raise InputError(
            f"{str(folder)!r} holds {len(classes)} class folders and {len(found)} images; give at least 2 and 1."
        )
    images = [_image(file, image_size) for file, _ in found]
    for image, (file, _) in zip(images, found, strict=True):
        if image.shape != images[0].shape or image.shape[0] != image.shape[1]:
            raise InputError(
                f"{str(file)!r} is {image.shape[1]}x{image.shape[0]}; the images must be square and of one size. "
                "Give data.image_size to resize and crop them."
            )
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(stacked, torch.tensor([label for _, label in found]), classes)


def _image(file: Path, image_size: int | None) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read as an image ({error}); repair or remove it.") from None
    if image_size is None:
        return np.asarray(image)
    scale = image_size / min(image.size)
    width, height = (max(image_size, round(side * scale)) for side in image.size)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + image_size, top + image_size)))
