"""Extra training images, real or generated: an .npz file or a folder of class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kdiga.data.class_folders import Files, images_below, scan
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet
from kdiga.data.reading import Reading, read, settle
from kdiga.errors import InputError, reason_of, some
from kdiga.io.safe_npz import load_arrays


def load_extra(
    path: Path, original: ImageSet | FileSet, reading: Reading, *, labelled: bool = True
) -> ImageSet | FileSet:
    """Return extra images for a set.

    An .npz file holds ``image``, uint8 (example, height, width, channel), and ``label``, (example,), like the public
    files of generated CIFAR images. A folder holds class folders, named as classes of the original; classes may be
    missing. Its images are resized and cut to the original's size.

    Args:
        path: Path of the file or folder.
        original: Training images to which they are added.
        reading: Options of a folder's images.
        labelled: Whether the labels are used; otherwise they may be missing, all images have label 0, and a folder may
            hold its images at any depth.

    Raises:
        InputError: for a file of another layout, or classes that the original does not have.
    """
    path = path.expanduser()
    if path.is_dir():
        return (_from_folder if labelled else _from_any_folder)(path, original, reading)
    if path.suffix != ".npz" or not path.is_file():
        raise InputError(f"extra images {str(path)!r}: there is no such .npz file or folder of class folders.")
    return _from_npz(path, original.classes, labelled=labelled)


def _from_npz(path: Path, classes: Sequence[str], *, labelled: bool) -> ImageSet:
    try:
        arrays = load_arrays(path)
    except ValueError as error:
        raise InputError(
            f"{str(path)!r} cannot be read as an .npz file ({reason_of(error)}); fetch it again."
        ) from None
    images, labels = arrays.get("image"), arrays.get("label")
    if images is not None and not labelled:
        labels = np.zeros(images.shape[:1], np.int64)
    if images is None or labels is None:
        raise InputError(f"{str(path)!r} holds {some(list(arrays), 5) or 'nothing'}; it must hold image and label.")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"image in {str(path)!r} is {images.dtype} {images.shape}; it must be uint8 (example, height, width, "
            "channel) with 1 or 3 channels."
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"label in {str(path)!r} is {labels.dtype} {labels.shape}; it must hold {len(images)} integers."
        )
    stored = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return ImageSet(stored, torch.from_numpy(labels.astype(np.int64)), classes)


def _from_any_folder(path: Path, original: ImageSet | FileSet, reading: Reading) -> ImageSet | FileSet:
    names = sorted(images_below(str(path), ".", Counter()))
    if not names:
        raise InputError(f"{str(path)!r} holds no image; give a folder of images, or an .npz file.")
    labels = torch.zeros(len(names), dtype=torch.int64)
    wanted = replace(reading, image_size=original.image_size)
    return settle(read(Files(str(path), names), labels, original.classes, wanted)[0], wanted)


def _from_folder(path: Path, original: ImageSet | FileSet, reading: Reading) -> ImageSet | FileSet:
    found = scan(path)
    foreign = [name for name in found.classes if name not in original.classes]
    if foreign:
        raise InputError(
            f"{str(path)!r} has the class folders {', '.join(foreign[:5])}, which the training images lack; they have "
            f"{', '.join(original.classes[:5])}, ..."
        )
    files, _ = found.read(replace(reading, image_size=original.image_size))
    numbers = torch.tensor([list(original.classes).index(name) for name in files.classes])
    return settle(replace(files, labels=numbers[files.labels], classes=original.classes), reading)
