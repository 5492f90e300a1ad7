"""A run's diary: one JSON object a line, readable while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdiga.io.atomic_write import disk_error_as_write_error, write_atomically


class Journal:
    """Appends events to a file; without a path it only remembers them.

    Args:
        path: of the JSON-lines file, or None.
        keep: how many of the lines already there belong to this run's past; the rest, written after
            the checkpoint that a resumed run starts from, are dropped.
    """

    def __init__(self, path: Path | None, *, keep: int = 0) -> None:
        self.path = path
        self.count = keep
        if path is None:
            return
        kept = path.read_text(errors="replace") if keep and path.is_file() else ""
        lines = kept.splitlines(keepends=True)[:keep]
        write_atomically(path, "".join(lines))

    def write(self, event: dict[str, Any]) -> None:
        """Append one event."""
        self.count += 1
        if self.path is not None:
            with disk_error_as_write_error(self.path), self.path.open("a") as file:
                file.write(json.dumps(event) + "\n")
