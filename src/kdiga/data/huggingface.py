"""Data sets of Hugging Face's ``datasets``, from its hub or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdiga.data.image_set import split
from kdiga.data.reading import Reading, read, settle
from kdiga.data.registry import DataSet, register_files
from kdiga.decoding import DecodeItem
from kdiga.errors import InputError, reason_of

LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
TEST_NAMES = ("test", "validation", "val", "valid")
TEST_SHARE, TEST_SEED = 0.2, 0


@dataclass(frozen=True, eq=False)
class Column:
    """Encoded images in one column of a table, which stays on disk.

    Args:
        table: a ``datasets.Dataset`` whose images are not decoded.
        column: its name.
        name: what messages call the table.
    """

    table: Any
    column: str
    name: str

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.table)

    def item(self, row: int) -> DecodeItem:
        """Return the bytes of one, or where its file is, and what to call it."""
        cell = self.table[row][self.column]
        location = cell["bytes"] if cell["bytes"] is not None else cell["path"]
        return DecodeItem(location, f"{self.name}, row {row}")

    def key(self, row: int) -> str:
        """Return its number."""
        return str(row)

    def length(self, row: int) -> int:
        """Return its encoded size in bytes; 0 for a file that is gone, which decoding will name."""
        cell = self.table[row][self.column]
        if cell["bytes"] is not None:
            return len(cell["bytes"])
        path = Path(cell["path"])
        return path.stat().st_size if path.is_file() else 0


@register_files("hf:")
def load_hugging_face(name: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the images of a data set, its column of images and its column of labels found by their types and names.

    Args:
        name: of a data set on the hub, NAME or ORG/NAME; ORG/NAME/CONFIG for one of its configurations; or a folder,
            saved by ``save_to_disk`` or of a kind that ``datasets.load_dataset`` reads.
        root: folder to keep downloads in; None is the library's own.
        reading: how.

    Raises:
        InputError: if ``datasets`` is not installed, the data cannot be had, or it has no images or labels.
    """
    tables = _tables(name, root)
    train = tables.get("train")
    if train is None:
        raise InputError(f"hf:{name} has no part named train; it has {', '.join(tables)}.")
    second = next((tables[part] for part in TEST_NAMES if part in tables), None)
    loaded = [_part(name, table, reading) for table in ([train] if second is None else [train, second])]
    notes = [note for _, told in loaded for note in told]
    files = [one for one, _ in loaded]
    if second is None:
        files = list(split(files[0], TEST_SHARE, TEST_SEED))
    elif files[0].classes != files[1].classes:
        differing = sorted(set(files[0].classes) ^ set(files[1].classes))
        raise InputError(f"the parts of hf:{name} have different classes: {', '.join(differing[:5])}.")
    parts = [
        settle(part.take(torch.randperm(len(part), generator=torch.Generator().manual_seed(0))), reading)
        for part in files
    ]
    return DataSet(f"hf:{name}", parts[0], parts[1], f"hf:{name}, fingerprint {train._fingerprint}", tuple(notes))


def _tables(name: str, root: Path | None) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError:
        raise InputError(f"hf:{name} needs the package datasets; run pip install 'kdiga[datasets]'.") from None
    folder = Path(name).expanduser()
    cache = None if root is None else str(root)
    try:
        if folder.is_dir():
            saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
            found = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(str(folder))
        else:
            organisation, _, rest = name.partition("/")
            short, _, config = rest.partition("/")
            whole = f"{organisation}/{short}" if short else organisation
            found = datasets.load_dataset(whole, config or None, cache_dir=cache)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = reason_of(error)
        raise InputError(
            f"hf:{name} could not be loaded ({first}); without a network, save it elsewhere with save_to_disk(FOLDER), "
            "copy FOLDER here and give hf:FOLDER."
        ) from None
    if not isinstance(found, datasets.DatasetDict):
        return {"train": found}
    return {str(part): table for part, table in found.items()}


def _part(name: str, table: Any, reading: Reading) -> tuple[Any, list[str]]:
    """Return one table as a set on disk, and what there is to tell of it."""
    import datasets

    features: Mapping[str, Any] = table.features
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [column for column in LABEL_NAMES if column in (labels or features)]
    chosen = (named or labels)[:1]
    if len(images) != 1 or not chosen:
        raise InputError(
            f"hf:{name} has {len(images)} columns of images and {len(labels)} of class labels among "
            f"{', '.join(features)}; it must have one of images, and labels in one named {', '.join(LABEL_NAMES[:3])} "
            "or of type ClassLabel. Rename its columns with datasets' rename_column and save it."
        )
    numbers, classes = _labels(name, table, chosen[0])
    plain = table.cast_column(images[0], datasets.Image(decode=False))
    return read(Column(plain, images[0], f"hf:{name}"), numbers, classes, reading)


def _labels(name: str, table: Any, column: str) -> tuple[torch.Tensor, Sequence[str]]:
    import datasets

    kind = table.features[column]
    values = table.with_format("numpy")[column][:]
    try:
        numbers = torch.as_tensor(values).long()
    except (TypeError, ValueError):
        raise InputError(
            f"column {column!r} of hf:{name} is of type {kind}; labels must be numbers from 0 or a ClassLabel."
        ) from None
    if bool((numbers < 0).any()):
        raise InputError(f"column {column!r} of hf:{name} holds -1: this part has no labels; give a labelled one.")
    if isinstance(kind, datasets.ClassLabel):
        return numbers, list(kind.names)
    return numbers, [str(number) for number in range(int(numbers.max()) + 1)]
