"""Hashes of the images of a run's training part, by which an evaluation knows the test images among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kdiga.data import FileSet, Images, ImageSet, MixedSet
from kdiga.decoding import encoded
from kdiga.io.atomic_write import replacing
from kdiga.io.safe_npz import load_arrays
from kdiga.runs.run_folder import TRAINED_IMAGES

MOST_FILES, MOST_IMAGES = 50_000, 2_000_000  # of more images nothing is stored: the hashes should cost seconds

Hashes: TypeAlias = npt.NDArray[np.uint64]


def write_trained_images(folder: Path, data: Images) -> None:
    """Write the hashes of training images to a run's folder, once, unless there are too many images.

    For images in memory they are hashes of the pixels, for images on disk of the encoded files.
    """
    parts = (data.original, data.extra) if isinstance(data, MixedSet) else (data,)
    small = all(len(part) <= (MOST_FILES if isinstance(part, FileSet) else MOST_IMAGES) for part in parts)
    if not small or (folder / TRAINED_IMAGES).is_file():
        return
    files = [image_hashes(part) for part in parts if isinstance(part, FileSet)]
    pixels = [image_hashes(part) for part in parts if isinstance(part, ImageSet)]
    arrays: dict[str, Any] = {
        name: np.unique(np.concatenate(found)) for name, found in (("files", files), ("pixels", pixels)) if found
    }
    with replacing(folder / TRAINED_IMAGES) as partial, partial.open("wb") as output:
        np.savez(output, allow_pickle=False, **arrays)


def count_trained(folder: Path, test: ImageSet | FileSet, decoded: ImageSet) -> int | None:
    """Return how many test images are among the images that the run in a folder was trained on; None if unknown.

    ``decoded`` are the same images as ``test``, in memory.
    """
    try:
        known = load_arrays(folder / TRAINED_IMAGES)
    except ValueError:
        return None
    sets: dict[str, ImageSet | FileSet] = {"pixels": decoded}
    if isinstance(test, FileSet):
        sets["files"] = test
    compared = known.keys() & sets.keys()
    if not compared:
        return None
    return int(np.any([np.isin(image_hashes(sets[name]), known[name]) for name in compared], axis=0).sum())


def image_hashes(data: ImageSet | FileSet) -> Hashes:
    """Return the first 8 bytes of BLAKE2b of each image: of its pixels in memory, or of its file."""
    if isinstance(data, FileSet):
        return _hashes(map(encoded, data.items()))
    return _hashes(data.images.cpu().contiguous().numpy())


def _hashes(images: Iterable[Any]) -> Hashes:
    digests = b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in images)
    return np.frombuffer(digests, np.uint64)
