"""Data sets by name: a train and a test part. Validation images are cut by seed from the first, never the second."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import torch

from kdiga.arguments import checked
from kdiga.data.feed import Images
from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet
from kdiga.data.reading import Reading, settle
from kdiga.errors import InputError, check_known, some, unknown
from kdiga.plugins import import_all, load_plugins

T = TypeVar("T")

TEST_SHARE = 0.2  # of the test part where a source has none


@dataclass(frozen=True, repr=False)
class DataSet:
    """A named data set.

    Args:
        name: Name as given by the user.
        train: Images for training and validation.
        test: Images for the final numbers only.
        source: Where the data was found, in words, for provenance.
        notes: Remarks on the data, such as images that were left out, a sentence each.
    """

    name: str
    train: Images
    test: ImageSet | FileSet
    source: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the name and both parts in one line."""
        return f"DataSet({self.name!r}, train={self.train!r}, test={self.test!r})"


def in_two_parts(
    name: str, found: Sequence[tuple[FileSet, list[str]]], reading: Reading, *, source: str, notes: Sequence[str] = ()
) -> DataSet:
    """Return the data set of a train and a test part, each with its notes, after ``notes`` on both.

    Where there is one part, about a fifth of it is for tests. Files often come class by class: each part is shuffled
    once, so that "the first N" is a fair sample.
    """
    parts = [files for files, _ in found]
    train, test = (
        settle(part.take(torch.randperm(len(part), generator=torch.Generator().manual_seed(0))), reading)
        for part in (parts if len(parts) == 2 else parts[0].split_by_name(TEST_SHARE))
    )
    return DataSet(name, train, test, source, (*notes, *(note for _, own in found for note in own)))


def note_on_unused(train: str, test: str, unused: Sequence[str], place: str) -> list[str]:
    """Return a note on the parts of a data set that are neither of the two used ones; nothing if there are none."""
    return [f"{train!r} and {test!r} are used; not used in {place}: {some(unused, 5)}"] if unused else []


Loader = Callable[[Path | None], DataSet]
FileLoader = Callable[[str, Path | None, Reading], DataSet]
Finder = Callable[[Path | None], str | None]
_LOADERS: dict[str, Loader] = {}
_FILE_LOADERS: dict[str, FileLoader] = {}
_FINDERS: dict[str, Finder] = {}
PATHS, TABLES = "path:", "table:"  # loaders of names that are the path of a folder, and of a table
FORMS = (
    "PATH of a folder of class folders (or of train/ and test/ with class folders)",
    "PATH of a CSV file with the columns file and label (and split: train or test)",
    "hf:NAME[/CONFIG] of a Hugging Face data set, or hf:FOLDER of a saved one",
    "wds:FOLDER or wds:PATTERN of WebDataset shards (tar)",
)


def register(name: str, find: Finder) -> Callable[[Loader], Loader]:
    """Register a loader under ``name``; ``find`` returns, for a root, where it would read without a download."""

    def add(loader: Loader) -> Loader:
        _check_new(name)
        _LOADERS[name], _FINDERS[name] = loader, find
        return loader

    return add


def register_files(name: str, find: Finder | None = None) -> Callable[[FileLoader], FileLoader]:
    """Register a loader of image files under ``name``; one that ends in ":" gets all names with that prefix."""

    def add(loader: FileLoader) -> FileLoader:
        _check_new(name)
        _FILE_LOADERS[name] = loader
        if find is not None:
            _FINDERS[name] = find
        return loader

    return add


def _check_new(name: str) -> None:
    if name in _LOADERS or name in _FILE_LOADERS:
        raise InputError(f"two data sets are named {name!r}.")


def available_data() -> tuple[str, ...]:
    """Return the names of the data sets, also those that installed packages bring; ``FORMS`` has what else works."""
    import_all("kdiga.data")
    load_plugins("data")
    return tuple(sorted(name for name in [*_LOADERS, *_FILE_LOADERS] if not name.endswith(":")))


def find_data(name: str, *, root: str | Path | None = None) -> str | None:
    """Return where :func:`load_data` would read a data set known by name; None if it would have to download it.

    Args:
        name: Name that ``kdiga data`` lists.
        root: Folder of the data.

    Raises:
        InputError: for an unknown name, or files that are damaged.
    """
    names = available_data()
    if name not in _FINDERS:
        raise unknown("data set", name, names)
    return _FINDERS[name](None if root is None else Path(root).expanduser())


@checked
def load_data(name: str | Path, *, root: str | Path | None = None, **reading: Any) -> DataSet:
    """Return a data set.

    Searched in order: ``root``, ``$KDIGA_DATA``, for Fashion-MNIST the folder of Debian's package
    dataset-fashion-mnist, then torchvision's download.

    Args:
        name: Name that ``kdiga data`` lists, or the path of a folder of class folders, or of a CSV file with the
            columns file and label, and split (train or test) if it has one.
        root: Folder of the data, or for its download; for a CSV file the folder of its images, by default its own.
        reading: Fields of :class:`kdiga.data.Reading`, for image files only: image_size, resize, in_memory,
            workers, skip_corrupt.

    Raises:
        InputError: for an unknown name, damaged files, or data that is neither here nor available for download.
    """
    import_all("kdiga.data")
    options, place, text = _reading(reading), None if root is None else Path(root).expanduser(), str(name)
    if text not in _LOADERS and _file_loader(text) is None:
        names = available_data()  # other packages are imported only for a name that is none of kdiga's
        check_known("data set", text, names, "A folder of class folders, or a CSV file, is accepted by its path.")
    if text in _LOADERS:
        for key in ("image_size", "skip_corrupt"):
            if getattr(options, key):
                raise InputError(f"{key}={getattr(options, key)} has no effect on {text}; it is for image files only.")
        return _LOADERS[text](place)
    loader = _file_loader(text)
    assert loader is not None
    return loader(text, place, options)


def _file_loader(name: str) -> FileLoader | None:
    """Return the loader of a name, of its prefix, or of a path; None for a name that is not known so far."""
    prefix = f"{name.partition(':')[0]}:"
    if name in _FILE_LOADERS and not name.endswith(":"):
        return _FILE_LOADERS[name]
    if prefix in _FILE_LOADERS and prefix not in (PATHS, TABLES):
        return lambda text, root, reading: _FILE_LOADERS[prefix](text.removeprefix(prefix), root, reading)
    path = Path(name).expanduser()
    if path.is_dir():
        return _FILE_LOADERS[PATHS]
    return _FILE_LOADERS[TABLES] if path.suffix.lower() in (".csv", ".tsv") else None


def _reading(given: dict[str, Any]) -> Reading:
    try:
        return Reading(**given)
    except TypeError:
        known = list(Reading.__dataclass_fields__)
        raise unknown("data option", next(name for name in given if name not in known), known) from None


def roots(given: Path | None, *more: Path) -> list[Path]:
    """Return the folders to search, in order: the given root, ``$KDIGA_DATA``, ``more``, the folder of downloads.

    Raises:
        InputError: if the given root does not exist.
    """
    if given is not None and not given.is_dir():
        raise InputError(
            f"data root {str(given)!r} is not a folder; give the folder that holds the data, or leave it out."
        )
    environment = os.environ.get("KDIGA_DATA")
    folders = [given] if given is not None else []
    folders += [Path(environment).expanduser()] if environment else []
    return [*folders, *more, download_folder(None)]


def download_folder(given: Path | None) -> Path:
    """Return the folder for a download: the given root, else ``$KDIGA_DATA``, else the user's cache."""
    if given is not None:
        return given
    if environment := os.environ.get("KDIGA_DATA"):
        return Path(environment).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kdiga"


def download(name: str, fetch: Callable[[], T], searched: Sequence[Path], by_hand: str) -> T:
    """Run a torchvision download.

    Raises:
        InputError: if it fails; it names the searched folders and what to do by hand.
    """
    try:
        return fetch()
    except (URLError, OSError, RuntimeError) as error:
        places = ", ".join(str(folder) for folder in dict.fromkeys(searched))
        raise InputError(
            f"{name} is not in {places} and could not be downloaded ({str(error).splitlines()[0][:100]}); {by_hand}, "
            "or name the folder that holds it with --root or $KDIGA_DATA."
        ) from None
