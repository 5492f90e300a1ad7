"""Data sets by name: a train and a test part. Validation is cut from the first by seed, never from the second."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdiga.data.images import ImageSet
from kdiga.errors import InputError, unknown


@dataclass(frozen=True)
class DataSet:
    """A named data set in memory.

    Args:
        name: as asked for.
        train: for training and validation.
        test: for the final numbers only.
        source: where it was found, in words, for provenance.
    """

    name: str
    train: ImageSet
    test: ImageSet
    source: str


Loader = Callable[[Path | None], DataSet]
_LOADERS: dict[str, Loader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Make a loader known under ``name``."""

    def keep(loader: Loader) -> Loader:
        if name in _LOADERS:
            raise InputError(f"two data sets are named {name!r}.")
        _LOADERS[name] = loader
        return loader

    return keep


def available_data() -> tuple[str, ...]:
    """Return the names of the data sets; a path to a folder of class folders is accepted as well."""
    package = importlib.import_module("kdiga.data")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_LOADERS))


def load_data(name: str | Path, *, root: str | Path | None = None, image_size: int | None = None) -> DataSet:
    """Return a data set.

    Looked for, in order: ``root``, ``$KDIGA_DATA``, for Fashion-MNIST the folder of Debian's package
    dataset-fashion-mnist, then torchvision's download.

    Args:
        name: "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", or the path of a folder of
            class folders.
        root: folder in which the data lies, or is put after download.
        image_size: resize and crop to this many pixels; for folders only.

    Raises:
        InputError: for an unknown name, damaged files, or data that is neither here nor to be had.
    """
    names = available_data()
    if str(name) in names:
        if image_size is not None:
            raise InputError(f"image_size={image_size} has no effect on {name}; it is for image folders only.")
        return _LOADERS[str(name)](None if root is None else Path(root).expanduser())
    if Path(name).expanduser().is_dir():
        from kdiga.data.folder import load_folder

        return load_folder(Path(name).expanduser(), image_size)
    raise unknown("data set", str(name), names, "A folder of class folders is accepted by its path.")
