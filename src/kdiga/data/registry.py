"""Data sets by name: a train and a test part. Validation is cut from the first by seed, never from the second."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.data.feed import Images
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet
from kdiga.data.reading import Reading
from kdiga.errors import InputError, unknown


@dataclass(frozen=True)
class DataSet:
    """A named data set.

    Args:
        name: as asked for.
        train: for training and validation.
        test: for the final numbers only.
        source: where it was found, in words, for provenance.
        notes: what there is to tell of it: images that were left out, for example.
    """

    name: str
    train: Images
    test: ImageSet | FileSet
    source: str
    notes: tuple[str, ...] = ()


Loader = Callable[[Path | None], DataSet]
FileLoader = Callable[[str, Path | None, Reading], DataSet]
Finder = Callable[[Path | None], str | None]
_LOADERS: dict[str, Loader] = {}
_FILE_LOADERS: dict[str, FileLoader] = {}
_FINDERS: dict[str, Finder] = {}
FORMS = (
    "PATH of a folder of class folders (or of train/ and test/ with class folders)",
    "hf:NAME[/CONFIG] of a Hugging Face data set, or hf:FOLDER of a saved one",
    "wds:FOLDER or wds:PATTERN of WebDataset shards (tar)",
)


def register(name: str, find: Finder) -> Callable[[Loader], Loader]:
    """Make a loader known under ``name``; ``find`` says, for a root, where it would read without a download."""

    def keep(loader: Loader) -> Loader:
        _check_new(name)
        _LOADERS[name], _FINDERS[name] = loader, find
        return loader

    return keep


def register_files(name: str, find: Finder | None = None) -> Callable[[FileLoader], FileLoader]:
    """Make a loader of image files known under ``name``; one that ends in ":" gets all names that begin so."""

    def keep(loader: FileLoader) -> FileLoader:
        _check_new(name)
        _FILE_LOADERS[name] = loader
        if find is not None:
            _FINDERS[name] = find
        return loader

    return keep


def _check_new(name: str) -> None:
    if name in available_here():
        raise InputError(f"two data sets are named {name!r}.")


def available_here() -> list[str]:
    """Return the names that are known so far."""
    return [*_LOADERS, *_FILE_LOADERS]


def available_data() -> tuple[str, ...]:
    """Return the names of the data sets; what else is accepted is in ``FORMS``."""
    package = importlib.import_module("kdiga.data")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(name for name in available_here() if not name.endswith(":")))


def find_data(name: str, *, root: str | Path | None = None) -> str | None:
    """Return where :func:`load_data` would read a data set known by name; None if it would have to download it.

    Args:
        name: one that ``kdiga data`` lists.
        root: folder in which the data lies.

    Raises:
        InputError: for an unknown name, or files that are damaged.
    """
    names = available_data()
    if name not in _FINDERS:
        raise unknown("data set", name, names)
    return _FINDERS[name](None if root is None else Path(root).expanduser())


def load_data(name: str | Path, *, root: str | Path | None = None, **reading: Any) -> DataSet:
    """Return a data set.

    Looked for, in order: ``root``, ``$KDIGA_DATA``, for Fashion-MNIST the folder of Debian's package
    dataset-fashion-mnist, then torchvision's download.

    Args:
        name: one that ``kdiga data`` lists, or the path of a folder of class folders.
        root: folder in which the data lies, or is put after download.
        reading: fields of :class:`kdiga.data.Reading`, for image files only: image_size, in_memory, workers,
            skip_corrupt.

    Raises:
        InputError: for an unknown name, damaged files, or data that is neither here nor to be had.
    """
    names, asked = available_data(), _reading(reading)
    place = None if root is None else Path(root).expanduser()
    text = str(name)
    if text in _LOADERS:
        for key in ("image_size", "skip_corrupt"):
            if getattr(asked, key):
                raise InputError(f"{key}={getattr(asked, key)} has no effect on {text}; it is for image files only.")
        return _LOADERS[text](place)
    prefix = f"{text.partition(':')[0]}:"
    loader = _FILE_LOADERS.get(text) or _FILE_LOADERS.get(prefix)
    if loader is not None:
        return loader(text.removeprefix(prefix), place, asked)
    if Path(name).expanduser().is_dir():
        from kdiga.data.class_folders import load_folder

        return load_folder(Path(name).expanduser(), asked)
    raise unknown("data set", text, names, "A folder of class folders is accepted by its path.")


def _reading(given: dict[str, Any]) -> Reading:
    try:
        return Reading(**given)
    except TypeError:
        known = list(Reading.__dataclass_fields__)
        raise unknown("data option", next(name for name in given if name not in known), known) from None
