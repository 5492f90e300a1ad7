"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), every file checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdiga.data.image_set import ImageSet
from kdiga.data.registry import DataSet, download, download_folder, register, roots
from kdiga.errors import InputError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

BINARY = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


@register("cifar10", lambda root: _binary(root) or _unpacked("cifar10", root))
def load_cifar10(root: Path | None) -> DataSet:
    """Return 50,000 training and 10,000 test images of 32x32, from the binary batches or torchvision's files."""
    found = _binary(root)
    if found is None:
        return _through_torchvision("cifar10", root)
    parts = [_read_batch(Path(found, file)) for file in MD5]
    images = torch.cat([images for images, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    whole = ImageSet(images, labels, CLASSES)
    return DataSet("cifar10", whole.take(slice(0, 50_000)), whole.take(slice(50_000, None)), found)


@register("cifar100", lambda root: _unpacked("cifar100", root))
def load_cifar100(root: Path | None) -> DataSet:
    """Return 50,000 training and 10,000 test images of 32x32."""
    return _through_torchvision("cifar100", root)


def _binary(root: Path | None) -> str | None:
    places = (place for folder in roots(root) for place in (folder / BINARY, folder))
    return next((str(place) for place in places if all((place / file).is_file() for file in MD5)), None)


def _source(name: str) -> type[CIFAR10]:
    from torchvision.datasets import CIFAR10, CIFAR100  # here, because torchvision loads slowly

    return CIFAR10 if name == "cifar10" else CIFAR100


def _unpacked(name: str, root: Path | None) -> str | None:
    source = _source(name)
    return next((str(folder) for folder in roots(root) if (folder / source.base_folder).is_dir()), None)


def _read_batch(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    data = path.read_bytes()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != MD5[path.name]:
        raise InputError(f"{str(path)!r} has md5 {digest}, the official file {MD5[path.name]}; fetch it again.")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    images = rows[:, 1:].reshape(-1, 3, 32, 32)
    return torch.from_numpy(images.copy()), torch.from_numpy(rows[:, 0].astype(np.int64))


def _through_torchvision(name: str, root: Path | None) -> DataSet:
    source, found = _source(name), _unpacked(name, root)
    target = found or str(download_folder(root))

    def fetch() -> list[CIFAR10]:
        return [source(target, train=train, download=found is None) for train in (True, False)]

    train, test = (
        ImageSet(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets), part.classes)
        for part in download(name, fetch, roots(root), f"fetch {source.filename} by hand")
    )
    return DataSet(name, train, test, target)
