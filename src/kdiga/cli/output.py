"""Where a command's words, its progress and its result go.

Words and progress go to stdout, a result to the file of ``--json``. With ``--json -`` stdout gets one JSON document and
nothing else, and the words go to stderr. ``--quiet`` leaves the words out; its last line is the place of the result.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.distributed.launch import is_main_process
from kdiga.errors import InputError
from kdiga.io.atomic_write import write_atomically

STDOUT = Path("-")


class Output:
    """Words on a console, and one result at the end.

    Args:
        json_file: File of the result as JSON; ``-`` is stdout, None writes none.
        quiet: Whether only the place of the result is printed.

    Raises:
        InputError: If the file cannot be written; raised before any work.
    """

    def __init__(self, json_file: Path | None = None, *, quiet: bool = False) -> None:
        from rich.console import Console  # here, so that --help does not wait for it

        self.json_file, self.quiet = json_file, quiet
        self._stdout = sys.stdout
        if json_file == STDOUT:
            if getattr(sys.stdout, "name", "") == os.devnull:
                raise InputError("--json was -, and stdout is closed; give a file.")
            # What a library prints must not mix with the document. ``main`` restores stdout.
            sys.stdout = sys.stderr
        elif json_file is not None:
            _check_writable(json_file)
        silent = quiet or not is_main_process()
        # FORCE_COLOR makes Rich take a log for a terminal; colours may go there, bars may not.
        drawn = sys.stdout.isatty() and not silent
        self.console = Console(quiet=silent, force_interactive=None if drawn else False)

    def result(self, content: Any, place: Path | None = None) -> None:
        """Write the result, plain data, as the user asked for it; ``place`` is where the command has stored it."""
        if not is_main_process():
            return
        if self.json_file == STDOUT:
            self._write(in_json(content))
        elif self.json_file is not None:
            write_atomically(self.json_file, in_json(content))
        place = place or self.json_file
        if self.quiet and place is not None and self.json_file != STDOUT:
            self._write(f"{place}\n")

    def _write(self, text: str) -> None:
        self._stdout.write(text)
        self._stdout.flush()


def in_json(content: Any) -> str:
    """Return plain data as a JSON document; numbers that are not finite become null, for JSON has none.

    >>> print(in_json({"loss": float("nan")}).replace(chr(10), ""))
    {  "loss": null}
    """
    try:
        return json.dumps(content, indent=2, allow_nan=False, default=str) + "\n"
    except ValueError:
        return json.dumps(_finite(content), indent=2, allow_nan=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value


def _check_writable(path: Path) -> None:
    remedy = "give a file in a folder that can be written, or - for stdout."
    if path.is_dir():
        raise InputError(f"--json was {str(path)!r}, which is a folder; {remedy}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--json was {str(path)!r}, whose folder cannot be made ({error.strerror}); {remedy}"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--json was {str(path)!r}, whose folder cannot be written; {remedy}")
