"""Records of finished runs, from which a later start, in another folder or on another machine, continues.

A record is a JSON file a run, with the small files of the run's folder in it. The weights of trained teachers are
copied as well, since students that are not trained yet learn from them; a student's weights are not needed any more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from kdiga.errors import InputError, some
from kdiga.experiments.board import ENDED, RunBoard, RunSpec
from kdiga.experiments.specification import record_name
from kdiga.io.atomic_write import replacing, write_atomically
from kdiga.io.safe_json_yaml import load_json
from kdiga.results.runs import read_journal
from kdiga.runs.run_folder import CONFIG, FAILURE, JOURNAL, RESULT, write_config, write_json

WEIGHTS = "best.safetensors"
OUT = "{out}"  # in a record, in place of the folder of the runs, which differs on another machine


class RunRecords:
    """The records of finished runs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = set[str]()

    def holds(self, run_spec: RunSpec) -> bool:
        """Return whether there is a record of a run with all that is asked of it now."""
        record = self._read(run_spec)
        return record is not None and self._complete(run_spec, record)

    def restore(self, board: RunBoard) -> int:
        """Put finished runs that the board's folder lacks into it, and return their number."""
        restored = 0
        for run_spec in board.run_specs:
            record, folder = self._read(run_spec), board.out / run_spec.folder
            if record is None or not self._complete(run_spec, record):
                continue
            if (folder / CONFIG).is_file() or (folder / FAILURE).is_file():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            if run_spec.kind == "teacher" and self._weights(run_spec).is_file():
                with replacing(folder / WEIGHTS) as partial:
                    shutil.copy(self._weights(run_spec), partial)
            files = _moved(record, OUT, str(board.out))
            config = files.pop(CONFIG, None)
            for name, content in files.items():
                write_json(folder / name, _unpacked(content, self._path(run_spec)))
            if config is not None:
                write_config(folder, config)  # last: with it the run counts as restored
            restored += 1
        return restored

    def write(self, board: RunBoard) -> None:
        """Write the records of runs that have ended since."""
        for run_spec in board.run_specs:
            if run_spec.folder in self._known or board.state(run_spec) not in ENDED:
                continue
            self._known.add(run_spec.folder)
            if self.holds(run_spec):
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            if run_spec.kind == "teacher" and (board.out / run_spec.folder / WEIGHTS).is_file():
                # Before the record, with which it counts as complete.
                with replacing(self._weights(run_spec), shared=True) as partial:
                    shutil.copy(board.out / run_spec.folder / WEIGHTS, partial)
            record = _moved(_record(run_spec, board.out / run_spec.folder), str(board.out), OUT)
            # Not indented, which would be twice as long.
            write_atomically(self._path(run_spec), json.dumps(record) + "\n", shared=True)

    def _path(self, run_spec: RunSpec) -> Path:
        return self.folder / (record_name(run_spec) + ".json")

    def _weights(self, run_spec: RunSpec) -> Path:
        return self._path(run_spec).with_suffix(".safetensors")

    def _read(self, run_spec: RunSpec) -> dict[str, Any] | None:
        path = self._path(run_spec)
        try:
            record: Any = load_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} is not a record of a finished run ({error}); delete it.") from None
        if not isinstance(record, dict) or not all(isinstance(part, dict) for part in cast("Any", record).values()):
            raise InputError(f"{str(path)!r} is not a record of a finished run; delete it.")
        # Its keys become names of files.
        strange = sorted(cast("dict[str, Any]", record).keys() - {CONFIG, RESULT, FAILURE, *run_spec.reports})
        if strange:
            raise InputError(f"{str(path)!r} has {some(strange, 3)!r:.200}, which no run leaves; delete it.")
        return cast("dict[str, Any]", record)

    def _complete(self, run_spec: RunSpec, record: Mapping[str, Any]) -> bool:
        """Return whether a record has all that is asked of the run now; a teacher needs its weights too."""
        if FAILURE in record:
            return True
        asked = all(record.get(one.file, {}).get("settings") == one.asked for one in run_spec.after)
        weights = run_spec.kind != "teacher" or self._weights(run_spec).is_file()
        return asked and weights and all(name in record for name in (CONFIG, RESULT, *run_spec.reports))


def default_records(recipe: Path) -> Path:
    """Return the folder of a recipe's records: ``results/NAME`` of the folder that holds the recipe, or ``recipes/``.

    A folder ``NAME.cells`` in the recipe's folder, where earlier versions wrote them, is still used.
    """
    earlier = recipe.with_suffix(".cells")
    if earlier.is_dir():
        return earlier
    root = recipe.parent.parent if recipe.parent.name == "recipes" else recipe.parent
    return root / "results" / recipe.stem


def validation_history(folder: Path) -> list[list[float]]:
    """Return epoch, from 1, and validation accuracy, clean and under PGD, of a run's checks."""
    lines = read_journal(folder / JOURNAL)
    if not lines:
        return (load_json(folder / RESULT) if (folder / RESULT).is_file() else {}).get("history", [])
    checked = ((line.epoch + 1, line.clean, line.robust) for line in lines)
    return [[epoch, clean, robust] for epoch, clean, robust in checked if clean is not None and robust is not None]


def _record(run_spec: RunSpec, folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name in (RESULT, FAILURE, *run_spec.reports):
        if (folder / name).is_file():
            record[name] = _packed(load_json(folder / name))
    if RESULT in record:
        record[RESULT] |= {"history": validation_history(folder)}
    if (folder / CONFIG).is_file():
        record[CONFIG] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    data = record.get(RESULT, {}).get("data")
    if isinstance(data, dict) and "source" in data:  # where this machine has the images
        data["source"] = Path(str(cast("Any", data)["source"])).name
    if FAILURE in record:
        record[FAILURE].pop("trace", None)  # it names this machine's folders
    return record


def _moved(content: Any, before: str, after: str) -> Any:
    """Return plain data with the paths below a folder below another."""
    if isinstance(content, dict):
        return {key: _moved(value, before, after) for key, value in cast("dict[str, Any]", content).items()}
    if isinstance(content, list):
        return [_moved(value, before, after) for value in cast("list[Any]", content)]
    if isinstance(content, str) and content.startswith((f"{before}/", f"{before}\\")):
        return after + content[len(before) :]
    return content


def _packed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a report with its outcomes as strings of 0 and 1, a seventh as long."""
    if not isinstance(content.get("correct"), dict):
        return content
    rows: dict[str, list[bool]] = content["correct"]
    return content | {"correct": {name: "".join("01"[bool(right)] for right in row) for name, row in rows.items()}}


def _unpacked(content: dict[str, Any], path: Path) -> dict[str, Any]:
    if not isinstance(content.get("correct"), dict):
        return content
    rows: dict[str, str] = content["correct"]
    if not all(isinstance(row, str) and set(row) <= {"0", "1"} for row in cast("dict[str, Any]", rows).values()):
        raise InputError(f"{str(path)!r} holds outcomes other than 0 and 1; delete it.")
    return content | {"correct": {name: [int(right) for right in row] for name, row in rows.items()}}
