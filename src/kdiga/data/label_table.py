"""A table of image files and their labels: a CSV file with the columns file and label."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdiga.data.class_folders import TEST_NAMES, TRAIN_NAMES, Scan, name_of_part
from kdiga.data.reading import Reading
from kdiga.data.registry import TABLES, DataSet, in_two_parts, note_on_unused, register_files
from kdiga.errors import InputError, reason_of, some
from kdiga.io.untrusted_file import read_text

COLUMNS = {
    "file": ("file", "path", "filename", "image"),
    "label": ("label", "class"),
    "split": ("split", "part"),
}
"""Names of each column, in any case; "split" may be missing."""

Row = Mapping[str, str]


@register_files(TABLES)
def load_table(name: str, root: Path | None, reading: Reading) -> DataSet:
    """Return the images that a CSV file lists.

    Files are relative to ``root``, by default the folder of the table; ``./a.png`` is the file ``a.png``. The column
    ``split`` says train or test, by the names that folders may have. Of several names of a part, the one that folders
    prefer is used. Without the column a hash of each file's name decides, as for class folders.

    Raises:
        InputError: for a table that cannot be read, without the columns, with an empty cell, a file twice, a split of
            another name, fewer than two labels, or a part without one of the labels.
    """
    path = Path(name).expanduser()
    folder = root or path.parent
    rows = _rows(path, folder)
    parts, notes = _parts(path, rows)
    labels = {row["label"] for part in parts for row in part}
    classes = sorted(labels, key=_order)
    if len(classes) < 2:
        raise InputError(f"{name!r} has {len(rows)} files and {len(classes)} labels; give at least two labels.")
    found = [_scan(folder, part, classes).read(reading) for part in parts]
    return in_two_parts(name, found, reading, source=str(path.resolve()), notes=notes)


def _parts(path: Path, rows: Sequence[Row]) -> tuple[list[Sequence[Row]], list[str]]:
    """Return the rows of the train and the test part, or all in a table without parts, and a note on unused rows."""
    kinds = Counter(row["split"] for row in rows)
    if "" in kinds:
        return [rows], []
    train, test = (next((name for name in names if name in kinds), names[0]) for names in (TRAIN_NAMES, TEST_NAMES))
    if train not in kinds or test not in kinds:
        raise InputError(
            f"{str(path)!r} has only the splits {some(sorted(kinds), 8)}; give rows of train and test, or drop it."
        )
    unused = [f"{name} ({count} rows)" for name, count in kinds.items() if name not in (train, test)]
    parts: list[Sequence[Row]] = [[row for row in rows if row["split"] == part] for part in (train, test)]
    return parts, note_on_unused(train, test, unused, str(path))


def _order(label: str) -> tuple[int, float, str]:
    """Return the sort key of a label: numbers by their value, and then words."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)


def _name_in(folder: str, real: str, file: str) -> str:
    """Return the path of a file from a folder; it does not depend on how the table spells the path.

    Args:
        folder: Folder of the files.
        real: The folder without links, where ".." starts.
        file: Path in the table, absolute or relative to the folder.
    """
    name = os.path.normpath(file)
    if os.path.isabs(name):  # noqa: PTH117 (speed)
        name = os.path.relpath(name, folder)
        if name.startswith(".."):
            name = os.path.relpath(Path(file).parent.resolve() / Path(file).name, real)
    elif name.startswith(".."):
        name = os.path.relpath(f"{real}/{name}", real)
    return name.replace(os.sep, "/")


def _scan(folder: Path, rows: Sequence[Row], classes: Sequence[str]) -> Scan:
    names = [row["file"] for row in rows]
    number = {name: label for label, name in enumerate(classes)}
    return Scan(folder, classes, names, [number[row["label"]] for row in rows], Counter())


def _rows(path: Path, folder: Path) -> list[Row]:
    """Return each row's file from a folder, label, and split, which is "" in a table without that column."""
    try:
        lines = read_text(path).removeprefix("\ufeff").splitlines()
        table = list(csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{str(path)!r} cannot be read as a table ({reason_of(error)}); give a CSV file.") from None
    heads = [head.strip().lower() for head in table[0]] if table else []
    places = {
        column: next((heads.index(name) for name in names if name in heads), None) for column, names in COLUMNS.items()
    }
    file, label, split = places["file"], places["label"], places["split"]
    if file is None or label is None:
        raise InputError(
            f"{str(path)!r} has the columns {some(heads, 8) or 'none'}; give file and label, and split if you like."
        )
    rows, real = list[Row](), str(folder.resolve())
    for line, cells in enumerate(table[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        cells = [cell.strip() for cell in cells] + [""] * (len(heads) - len(cells))
        if not cells[file] or not cells[label]:
            raise InputError(f"{str(path)!r} has no file or no label in row {line}; fill both in, or remove the row.")
        part = "" if split is None else _part(path, line, cells[split])
        rows.append({"file": _name_in(str(folder), real, cells[file]), "label": cells[label], "split": part})
    twice = [name for name, count in Counter(row["file"] for row in rows).items() if count > 1]
    if twice or not rows:
        raise InputError(f"{str(path)!r} lists {f'{twice[0]!r} twice' if twice else 'no file'}; list each file once.")
    return rows


def _part(path: Path, line: int, text: str) -> str:
    kind = name_of_part(text)
    if kind not in (*TRAIN_NAMES, *TEST_NAMES):
        raise InputError(f"{str(path)!r} has the split {text!r:.60} in row {line}; write train or test.")
    return kind
