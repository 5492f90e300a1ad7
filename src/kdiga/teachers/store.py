"""Teacher signals on disk, in files that are complete and have a checksum, or do not exist.

A folder contains ``manifest.json`` and, for every view, files of consecutive examples: ``view-0/00000.npy`` with the
rows, and ``view-0/00000.json`` with size and checksum. A file is valid after its record is written; a killed process
leaves at most a ``.partial``, which the next process replaces.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from kdiga.errors import InputError, KdigaError
from kdiga.io.atomic_write import FULL, atomic_file
from kdiga.io.file_lock import file_lock
from kdiga.io.safe_json_yaml import load_json
from kdiga.teachers.manifest import FILE, Manifest
from kdiga.teachers.packing import Rows, row_type

FILL = "`kdiga cache RECIPE`"
ELSEWHERE = "choose another cache.folder, or replace it with --overwrite"


class StoreFullError(KdigaError):
    """The disk has no space for the next shard; the shards before it stay."""

    exit_status = 1


@dataclass(frozen=True)
class StoreShard:
    """Consecutive examples in one view.

    Args:
        view: Number of the view.
        number: Number of the shard in the view.
        start: First example.
        stop: Example after the last one.
    """

    view: int
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The path in the store, without a suffix."""
        return f"view-{self.view}/{self.number:05d}"


class Store:
    """Rows of teacher signals by view and example.

    Args:
        folder: Folder of the store.
        manifest: Description of its content.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.row = row_type(manifest)
        self._view, self._open = 0, dict[int, Rows]()

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Return the store in a folder, complete or not.

        Raises:
            InputError: If there is no store, or its manifest is damaged.
        """
        manifest = Manifest.read(folder)
        if manifest is None:
            raise InputError(f"no teacher cache is in {str(folder)!r}; fill it with {FILL}.")
        return cls(folder, manifest)

    @classmethod
    def create(cls, folder: Path, manifest: Manifest, *, overwrite: bool = False) -> Store:
        """Return the store in a folder, and create it if necessary; several processes may do so at once.

        Args:
            folder: Folder; created if necessary.
            manifest: Description of the content. A present store may have gradients in addition.
            overwrite: Whether to replace a store of something else; other files in the folder stay.

        Raises:
            InputError: If the folder has a store of something else, or cannot be written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(folder, "manifest", wait=True):
                there = None if overwrite else Manifest.read(folder)
                if there is not None:
                    there.check(manifest.wanted(), folder, ELSEWHERE)
                    return cls(folder, there)
                _clear(folder)
                write_durably(folder / FILE, manifest.to_json().encode())
        except OSError as error:
            raise _write_error(error, folder) from None
        return cls(folder, manifest)

    @cached_property
    def shards(self) -> tuple[StoreShard, ...]:
        """All shards, written or not."""
        examples, size = self.manifest.examples, self.manifest.shard_examples
        return tuple(
            StoreShard(view, number, start, min(start + size, examples))
            for view in range(self.manifest.views)
            for number, start in enumerate(range(0, examples, size))
        )

    def bytes_of(self, shard: StoreShard) -> int:
        """Return the size of a shard's file."""
        return len(self._header(shard)) + (shard.stop - shard.start) * self.row.itemsize

    def is_complete(self, shard: StoreShard) -> bool:
        """Return whether a shard was written completely; :meth:`problem` reads it, too."""
        return (self.folder / f"{shard.name}.json").is_file()

    def missing(self) -> list[StoreShard]:
        """Return the shards that are not written yet."""
        return [shard for shard in self.shards if not self.is_complete(shard)]

    def path(self, shard: StoreShard) -> Path:
        """Return the file of a shard's rows."""
        return self.folder / f"{shard.name}.npy"

    def write(self, shard: StoreShard, batches: Iterable[Rows]) -> None:
        """Write a shard, batch by batch, and then its record.

        Raises:
            StoreFullError: If the disk is full; the shards so far stay valid.
        """
        path, digest = self.path(shard), hashlib.sha256()
        try:
            path.parent.mkdir(exist_ok=True)
            # A write raises an error if the disk is full; with a memory map the process would end.
            with atomic_file(path, durable=True) as partial, partial.open("wb") as file:
                for block in chain((self._header(shard),), (rows.tobytes() for rows in batches)):
                    file.write(block)
                    digest.update(block)
            record = {"sha256": digest.hexdigest(), "bytes": self.bytes_of(shard), "store": self.manifest.digest()}
            write_durably(path.with_suffix(".json"), (json.dumps(record) + "\n").encode())
        except OSError as error:
            raise _write_error(error, self.folder) from None

    def problem(self, shard: StoreShard) -> str | None:
        """Read a shard to its end and return what is wrong with it, or None."""
        path = self.path(shard)
        try:
            record: dict[str, Any] = load_json(path.with_suffix(".json"))
            size = path.stat().st_size
            if record["store"] != self.manifest.digest():
                return f"belongs to another store ({record['store']}, not {self.manifest.digest()})"
            if size != record["bytes"] or size != self.bytes_of(shard):
                return f"has {size} bytes and should have {self.bytes_of(shard)}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                    return "does not match its checksum"
        except FileNotFoundError as error:
            return f"is missing ({Path(error.filename).name})"
        except (ValueError, KeyError, TypeError):
            return "has a damaged record"
        return None

    def discard(self, shard: StoreShard) -> None:
        """Remove a shard, so that it is written again."""
        for suffix in (".json", ".npy"):  # the record first: without it the rows are not read
            self.path(shard).with_suffix(suffix).unlink(missing_ok=True)

    def check(self) -> None:
        """Check that every shard exists and has its checksum.

        Raises:
            InputError: If shards are missing, or a file is damaged.
        """
        missing = len(self.missing())
        if missing:
            there = len(self.shards) - missing
            raise InputError(
                f"the teacher cache in {str(self.folder)!r} is not complete: {there} of {len(self.shards)} shards are "
                f"there; {FILL} adds the others."
            )
        for shard in self.shards:
            problem = self.problem(shard)
            if problem is not None:
                raise InputError(f"teacher cache shard {str(self.path(shard))!r} {problem}; {FILL} fills it again.")

    def rows(self, view: int, index: Rows) -> Rows:
        """Return the rows of some examples in one view; other rows are not read.

        Args:
            view: Number of the view.
            index: Numbers of the examples, int64, shape (batch,).

        Raises:
            InputError: If the store does not have the view or an example.
        """
        return self._gather(view, index, None)

    def logits(self, view: int, index: Rows) -> Rows:
        """Return the logits of some examples in one view, shape (batch, num_classes), without reading gradients."""
        return self._gather(view, index, "logits")

    def _gather(self, view: int, index: Rows, part: str | None) -> Rows:
        manifest = self.manifest
        if not 0 <= view < manifest.views:
            raise InputError(
                f"view was {view}; the teacher cache in {str(self.folder)!r} has views 0 to {manifest.views - 1}. Fill "
                "one with more cache.views."
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < manifest.examples:
            raise InputError(
                f"examples were in [{int(index.min())}, {int(index.max())}]; the teacher cache in "
                f"{str(self.folder)!r} has 0 to {manifest.examples - 1}. Fill one for this data set."
            )
        if view != self._view:
            self._view, self._open = view, {}  # an epoch reads one view: maps of another view would stay in memory
        numbers = index // manifest.shard_examples
        found: Rows | None = None
        for number in np.unique(numbers):
            here = numbers == number
            rows = self._map(int(number))
            some = np.asarray((rows if part is None else rows[part])[index[here] - number * manifest.shard_examples])
            if found is None:
                found = np.empty((len(index), *some.shape[1:]), some.dtype)
            found[here] = some
        return np.zeros(0, self.row) if found is None else found

    def _map(self, number: int) -> Rows:
        if number not in self._open:
            shard = self.shards[self._view * (len(self.shards) // self.manifest.views) + number]
            try:
                rows: Rows = np.load(self.path(shard), mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"teacher cache shard {str(self.path(shard))!r} cannot be read ({error}); {FILL} fills it again."
                ) from None
            self._open[number] = rows
        return self._open[number]

    def _header(self, shard: StoreShard) -> bytes:
        buffer = io.BytesIO()
        about = {"descr": np.lib.format.dtype_to_descr(self.row), "fortran_order": False}
        np.lib.format.write_array_header_1_0(buffer, about | {"shape": (shard.stop - shard.start,)})
        return buffer.getvalue()


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file atomically, also after a power failure."""
    with atomic_file(path, durable=True) as partial:
        partial.write_bytes(content)


def _clear(folder: Path) -> None:
    """Remove a store's files and no others."""
    (folder / FILE).unlink(missing_ok=True)
    for view in folder.glob("view-*"):
        for suffix in (".json", ".npy", ".json.partial", ".npy.partial"):
            for path in view.glob(f"[0-9]*{suffix}"):
                path.unlink()
        if not any(view.iterdir()):
            view.rmdir()


def _write_error(error: OSError, folder: Path) -> KdigaError:
    if error.errno in FULL:
        return StoreFullError(
            f"the disk is full ({error.strerror}); finished shards in {str(folder)!r} are saved. Make room, and "
            "the same command continues."
        )
    return InputError(
        f"the teacher cache in {str(folder)!r} cannot be written ({error.strerror}); choose another cache.folder."
    )
