"""Data sets of Hugging Face's ``datasets``, from its hub or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiga.data.reading import Reading, read
from kdiga.data.registry import DataSet, in_two_parts, note_on_unused, register_files
from kdiga.decoding import DecodeItem
from kdiga.errors import InputError, reason_of

LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
TEST_NAMES = ("test", "validation", "val", "valid")


@dataclass(frozen=True, eq=False)
class Column:
    """Encoded images in one column of a ``datasets.Dataset``; ``name`` is the table's in messages.

    An empty cell is an image of 0 bytes, which cannot be read.
    """

    table: Any
    column: str
    name: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.table)

    def item(self, row: int) -> DecodeItem:
        """Return the bytes of an image, or the path of its file, and its name in messages."""
        return DecodeItem(self._location(row), f"{self.name}, row {row}")

    def key(self, row: int) -> str:
        """Return the number of the row."""
        return str(row)

    def length(self, row: int) -> int:
        """Return the encoded size of an image in bytes; 0 for a missing file, which decoding names."""
        location = self._location(row)
        if isinstance(location, bytes):
            return len(location)
        path = Path(location)
        return path.stat().st_size if path.is_file() else 0

    def _location(self, row: int) -> bytes | str:
        cell = self.table[row][self.column] or {}
        content, path = cell.get("bytes"), cell.get("path")
        return content if content is not None else path or b""


@register_files("hf:")
def load_hugging_face(name: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the images of a data set; the columns of images and labels are found by their types and names.

    Args:
        name: Name of a data set on the hub, NAME or ORG/NAME; ORG/NAME/CONFIG for one of its configurations; or a
            folder, saved by ``save_to_disk`` or of a kind that ``datasets.load_dataset`` reads.
        root: Folder for downloads; None is the library's own.
        reading: Options of the images.

    Raises:
        InputError: if ``datasets`` is not installed, the data cannot be loaded, or it has no images or labels.
    """
    tables = _tables(name, root)
    train = tables.get("train")
    if train is None:
        raise InputError(f"hf:{name} has no part named train; it has {', '.join(tables)}.")
    test = next((part for part in TEST_NAMES if part in tables), None)
    parts = [_part(name, tables[part]) for part in ("train", test) if part is not None]
    largest = max((int(label) for part in parts for label in part.labels.unique()), default=0)
    numbers = [str(number) for number in range(largest + 1)]
    one, other = (part.classes or numbers for part in (parts[0], parts[-1]))
    if one != other:
        differing = sorted(set(one) ^ set(other))
        raise InputError(f"the parts of hf:{name} have different classes: {', '.join(differing[:5])}.")
    found = [read(part.images, part.labels, one, reading) for part in parts]
    unused = [part for part in tables if part not in ("train", test)]
    notes = [] if test is None else note_on_unused("train", test, unused, f"hf:{name}")
    source = f"hf:{name}, fingerprint {train._fingerprint}"
    return in_two_parts(f"hf:{name}", found, reading, source=source, notes=notes)


def _tables(name: str, root: Path | None) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError:
        raise InputError(f"hf:{name} needs the package datasets; run pip install 'kdiga[datasets]'.") from None
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
            found = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(str(folder))
        else:
            organisation, _, rest = name.partition("/")
            short, _, config = rest.partition("/")
            whole = f"{organisation}/{short}" if short else organisation
            found = datasets.load_dataset(whole, config or None, cache_dir=None if root is None else str(root))
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise InputError(
            f"hf:{name} could not be loaded ({reason_of(error)}); without a network, save it elsewhere with "
            "save_to_disk(FOLDER), copy FOLDER here and give hf:FOLDER."
        ) from None
    if not isinstance(found, datasets.DatasetDict):
        return {"train": found}
    return {str(part): table for part, table in found.items()}


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """Images and labels of one table, and the names of its classes; None where labels are numbers."""

    images: Column
    labels: torch.Tensor
    classes: Sequence[str] | None


def _part(name: str, table: Any) -> LabelledTable:
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
    plain = table.cast_column(images[0], datasets.Image(decode=False))
    kind = features[chosen[0]]
    classes = list(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    return LabelledTable(Column(plain, images[0], f"hf:{name}"), _labels(name, table, chosen[0]), classes)


def _labels(name: str, table: Any, column: str) -> torch.Tensor:
    """Return the labels of a table, int64."""
    values = table.with_format("numpy")[column][:]
    try:
        numbers = torch.as_tensor(values).long()
    except (TypeError, ValueError):
        numbers = None
    # An empty cell is NaN here, which no integer equals.
    if numbers is None or numbers.dim() != 1 or not np.array_equal(numbers.numpy(), values):
        raise InputError(
            f"column {column!r} of hf:{name} is of type {table.features[column]} and does not hold one whole number "
            "in each row; labels must be numbers from 0 or a ClassLabel."
        )
    if bool((numbers < 0).any()):
        raise InputError(f"column {column!r} of hf:{name} holds -1: this part has no labels; give a labelled one.")
    return numbers
