"""The folder with the results of a command that judges models, which later calls add to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdiga.errors import InputError
from kdiga.io.file_lock import file_lock
from kdiga.io.safe_json_yaml import load_json
from kdiga.results.shared import FileModel
from kdiga.runs.provenance import installed_version
from kdiga.runs.run_folder import try_writing
from kdiga.runs.work_units import FOLDER, ResultCache
from kdiga.workflows.identity import differences, flat

Join = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


class Outcome(NamedTuple):
    """What a command found: the content of its result file, and the folder of that file, None without one."""

    content: dict[str, Any]
    folder: Path | None


class ResultFolder:
    """A folder with a JSON file of results and finished work units.

    Later calls with the same question add to the file; other results are not replaced by accident.

    Args:
        folder: The folder; it is created. None stores nothing.
        kind: Class of the file's content; the file is called after the class's kind.
        identity: Plain data; results with equal values here answer the same question.
        overwrite: Whether other results may be replaced.

    Raises:
        InputError: If the folder holds other results, or cannot be written.
    """

    def __init__(
        self, folder: Path | None, kind: type[FileModel], identity: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        self.folder, self.kind, self.identity, self.overwrite = folder, kind, identity, overwrite
        self.work_units = None if folder is None else folder / FOLDER
        self.earlier: Mapping[str, Any] = {} if folder is None else self._read(folder)
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try_writing(folder)
        except OSError as error:
            raise InputError(
                f"results cannot be written to {str(folder)!r} ({error.strerror}); choose another --out."
            ) from None

    @property
    def cache(self) -> ResultCache:
        """Finished work units; without a folder they are in memory alone."""
        return ResultCache(self.work_units)

    def write(self, content: dict[str, Any], join: Join | None = None) -> Outcome:
        """Write results and return them; ``join`` makes what is written from the earlier results and the new ones."""
        if self.folder is not None and self.work_units is not None:
            path = self.folder / file_name(self.kind)
            with file_lock(self.work_units, path.name, wait=True):  # another call may have ended in the meantime
                if join is not None and (old := self._read(self.folder)):
                    content = join(old, content) | _earlier_calls(old, content)
                self.kind.model_validate(content).write(path)
        return Outcome(content, self.folder)

    def _read(self, folder: Path) -> dict[str, Any]:
        return check_earlier_result(folder / file_name(self.kind), self.identity, overwrite=self.overwrite)


def _earlier_calls(old: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the calls before this one that a file is made of, each command once."""
    calls = [*old.get("earlier", []), {name: old[name] for name in ("command", "provenance") if name in old}]
    distinct = {call.get("command", ""): call for call in calls}
    distinct.pop(content.get("command", ""), None)
    return {"earlier": list(distinct.values())} if distinct else {}


def file_name(kind: type[FileModel]) -> str:
    """Return the name of the file of a kind of results."""
    return f"{kind.KIND}.json"


def check_earlier_result(path: Path, identity: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """Return the result of an earlier call with the same identity by the same version, or {}; this call adds to it."""
    try:
        old = load_json(path)
        there = {name: old.get(name) for name in identity}
        version = old.get("provenance", {}).get("versions", {}).get("kdiga", installed_version("kdiga"))
        different = differences(
            flat(there | {"kdiga": version}), flat({**identity, "kdiga": installed_version("kdiga")})
        )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        old, different = {}, "it cannot be read"
    if not different:
        return old
    if overwrite:
        return {}
    raise InputError(
        f"{str(path)!r} holds other results: {different}; choose another --out, or replace them with --overwrite."
    )
