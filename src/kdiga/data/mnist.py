"""Small images of digits and clothes: MNIST and Fashion-MNIST from their IDX files, and scikit-learn's digits."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from kdiga.data.image_set import ImageSet, split
from kdiga.data.registry import DataSet, download, download_folder, register, roots
from kdiga.errors import InputError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # of torchvision
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MOST = 2**28  # bytes that a file may unpack to; the largest of the data sets has 47 million
FASHION_TEST_LABELS = "15d484375f8d13e6eb1aabb0c3f46965"  # md5, unpacked
DIGITS_SOURCE = "scikit-learn"
DIGITS_TEST_SHARE = 360 / 1797
DIGITS_TEST_SEED = 0  # fixed: the test images are the same for every seed of a run


@register("digits", find=lambda _: DIGITS_SOURCE)
def load_digits(root: Path | None) -> DataSet:
    """Return scikit-learn's digits of 8x8, without a download: 1,437 training and 360 test images.

    Their 17 grey levels are spread over the bytes.
    """
    del root
    from sklearn.datasets import load_digits as embedded

    images, labels = embedded(return_X_y=True)
    pixels = np.round(np.asarray(images).reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    everything = ImageSet(
        torch.from_numpy(pixels), torch.from_numpy(np.asarray(labels, np.int64)), [str(digit) for digit in range(10)]
    )
    train, test = split(everything, DIGITS_TEST_SHARE, DIGITS_TEST_SEED)
    # Stored order follows the writers; shuffled once, so that "the first N" is a fair sample.
    test = test.take(torch.randperm(len(test), generator=torch.Generator().manual_seed(DIGITS_TEST_SEED)))
    return DataSet("digits", train, test, DIGITS_SOURCE)


@register("mnist", lambda root: _find("mnist", roots(root)))
def load_mnist(root: Path | None) -> DataSet:
    """Return 60,000 training and 10,000 test images of 28x28."""
    return _load("mnist", root, (), "fetch it where there is a network")


@register("fashion-mnist", lambda root: _find("fashion-mnist", roots(root, DEBIAN)))
def load_fashion_mnist(root: Path | None) -> DataSet:
    """Return 60,000 training and 10,000 test images of 28x28."""
    return _load("fashion-mnist", root, (DEBIAN,), "`apt-get install dataset-fashion-mnist` has it")


def _load(name: str, root: Path | None, more: tuple[Path, ...], by_hand: str) -> DataSet:
    from torchvision.datasets import MNIST, FashionMNIST  # here, because torchvision loads slowly

    source = MNIST if name == "mnist" else FashionMNIST
    searched = roots(root, *more)
    found = _find(name, searched)
    if found is None:
        target = download_folder(root)
        download(name, lambda: source(str(target), download=True), searched, by_hand)
        found = str(target / FOLDERS[name] / "raw")
    parts = [_read_idx(Path(found, file)) for file in FILES]
    classes = [str(label).split(" - ")[-1] for label in source.classes]
    train, test = (
        ImageSet(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)), classes)
        for images, labels in (parts[:2], parts[2:])
    )
    return DataSet(name, train, test, found)


def _find(name: str, folders: list[Path]) -> str | None:
    for folder in folders:
        for place in (folder / name, folder / FOLDERS[name] / "raw", folder):
            if all(_packed_or_not(place / file) for file in FILES):
                # The two sets share their file names; taking one for the other must not happen silently.
                labels = hashlib.md5(_unpack(place / FILES[3]), usedforsecurity=False).hexdigest()
                if (labels == FASHION_TEST_LABELS) == (name == "fashion-mnist"):
                    return str(place)
    return None


def _packed_or_not(path: Path) -> Path | None:
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)


def _unpack(path: Path) -> bytes:
    found = _packed_or_not(path)
    if found is None:
        raise InputError(f"{str(path)!r} is missing; fetch the data set again.")
    try:
        if found.suffix != ".gz":
            return found.read_bytes()
        with gzip.open(found) as file:
            data = file.read(MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{str(found)!r} cannot be unpacked ({error}); fetch the data set again.") from None
    if len(data) > MOST:
        raise InputError(f"{str(found)!r} unpacks to more than {MOST:,} bytes; fetch the data set again.")
    return data


def _read_idx(path: Path) -> np.ndarray:
    """Read one IDX file: two zero bytes, type 8 (bytes), rank, big-endian sizes, values."""
    data = _unpack(path)
    rank = data[3] if len(data) > 3 else 0
    sizes = data[4 : 4 + 4 * rank]
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">i4"))
    # math.prod, since NumPy's product overflows beyond 64 bits
    if data[:3] != b"\0\0\x08" or min(shape, default=0) < 0 or len(data) != 4 + 4 * rank + math.prod(shape):
        raise InputError(f"{str(path)!r} is not a whole IDX file; fetch the data set again.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()
