"""Where the encoded images of a set are: files, parts of archives, rows of a table. None of it is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kdiga.decoding import DecodeItem


class Storage(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def item(self, row: int) -> DecodeItem:
        """Return where one is and what to call it."""
        ...

    def key(self, row: int) -> str:
        """Return its name within the set, which does not change when the set moves to another folder."""
        ...

    def length(self, row: int) -> int:
        """Return its encoded size, in bytes."""
        ...


@dataclass(frozen=True)
class Files:
    """Files below one folder.

    Args:
        root: the folder.
        names: of the files, relative to it, with "/" between their parts.
    """

    root: str
    names: Sequence[str]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    def item(self, row: int) -> DecodeItem:
        """Return where one is and what to call it."""
        path = f"{self.root}/{self.names[row]}"
        return DecodeItem(path, path)

    def key(self, row: int) -> str:
        """Return its path within the folder."""
        return self.names[row]

    def length(self, row: int) -> int:
        """Return the size of the file; 0 for one that is gone, which decoding will name."""
        path = Path(self.root, self.names[row])
        return path.stat().st_size if path.is_file() else 0


@dataclass(frozen=True)
class Members:
    """Members of uncompressed tar files, found again by where they begin.

    Args:
        archives: the tar files.
        names: of the members, with the file's first.
        archive: int64, which of the tar files each is in.
        offset: int64, where its bytes begin.
        size: int64, how many they are.
    """

    archives: Sequence[str]
    names: Sequence[str]
    archive: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    def item(self, row: int) -> DecodeItem:
        """Return where one is and what to call it."""
        archive = self.archives[int(self.archive[row])]
        return DecodeItem((archive, int(self.offset[row]), int(self.size[row])), f"{archive}:{self.names[row]}")

    def key(self, row: int) -> str:
        """Return the tar file's name and the member's."""
        return f"{Path(self.archives[int(self.archive[row])]).name}:{self.names[row]}"

    def length(self, row: int) -> int:
        """Return its size."""
        return int(self.size[row])
