"""Long work in units with stored outcomes, so that a killed process can continue, and several processes can share work.

The key of a unit decides where its outcome is stored. So the same command continues, a command with more attacks or
examples uses the present outcomes, and outcomes of different models are never confused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.io.atomic_write import write_atomically
from kdiga.io.file_lock import file_lock
from kdiga.io.safe_json_yaml import load_json
from kdiga.runs.provenance import installed_version

FOLDER = "portions"  # subfolder for outcomes in a folder of results
POLL = 0.2  # seconds between checks for outcomes of other processes

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WorkUnit:
    """A unit of long work."""

    task: str  # name of the work, for progress
    # Plain data with everything that decides the outcome; the version of kdiga is added. It has no class names and no
    # ``repr`` of objects, so that it does not change when code is renamed.
    key: Mapping[str, Any]
    size: int  # amount of work, such as the number of examples
    work: Callable[[], Any]  # function that does the work and returns plain data with finite numbers


class ResultCache:
    """Outcomes by key, in a folder; without one in memory, for this process only."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._memory: dict[str, str] = {}

    def get(self, key: Mapping[str, Any]) -> Any | None:
        """Return an outcome; None if there is none, or its file is damaged."""
        name = key_hash(key)
        if name not in self._memory:
            if self.folder is None:
                return None
            try:
                stored = load_json(self.folder / f"{name}.json")
                # Outcomes of earlier versions have no sum; a sum of null is damaged.
                if stored["key"] != _plain(key) or ("sum" in stored and stored["sum"] != _sum_of(stored["outcome"])):
                    return None
                self._memory[name] = json.dumps(stored["outcome"])
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return None
        return json.loads(self._memory[name])

    def put(self, key: Mapping[str, Any], outcome: Any) -> None:
        """Store an outcome, atomically on disk."""
        name = key_hash(key)
        self._memory[name] = json.dumps(outcome, allow_nan=False)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = {"key": _plain(key), "outcome": outcome, "sum": _sum_of(json.loads(self._memory[name]))}
        write_atomically(self.folder / f"{name}.json", json.dumps(stored), shared=True)

    def keep(self, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """Return an outcome, after the work if there is none yet."""
        if self.get(key) is None:
            self.put(key, work())
        return self.get(key)


def run_work_units(
    work_units: Sequence[WorkUnit], result_cache: ResultCache, on_progress: OnProgress | None = None
) -> list[Any]:
    """Return the outcome of every unit, after the work that no process has done yet.

    Args:
        work_units: Units, the most useful ones first.
        result_cache: Store of the outcomes; processes with the same folder share the work.
        on_progress: Called with the task, its finished size and its whole size.
    """
    totals, done = dict[str, int](), dict[str, int]()
    for work_unit in work_units:
        totals[work_unit.task] = totals.get(work_unit.task, 0) + work_unit.size
    outcomes: dict[int, Any] = {}
    while len(outcomes) < len(work_units):
        before = len(outcomes)
        for place, work_unit in enumerate(work_units):
            if place in outcomes:
                continue
            outcome = _attempt(work_unit, result_cache)
            if outcome is None:
                continue
            outcomes[place] = outcome
            done[work_unit.task] = done.get(work_unit.task, 0) + work_unit.size
            if on_progress is not None:
                on_progress(work_unit.task, done[work_unit.task], totals[work_unit.task])
        if len(outcomes) == before:
            time.sleep(POLL)
    return [outcomes[place] for place in range(len(work_units))]


def _attempt(work_unit: WorkUnit, result_cache: ResultCache) -> Any | None:
    outcome = result_cache.get(work_unit.key)
    if outcome is not None or result_cache.folder is None:
        return result_cache.keep(work_unit.key, work_unit.work) if outcome is None else outcome
    with file_lock(result_cache.folder, key_hash(work_unit.key)) as mine:
        return result_cache.keep(work_unit.key, work_unit.work) if mine else None


def key_hash(key: Mapping[str, Any]) -> str:
    """Return the hash of a key, which is the name of its file."""
    return hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:32]


def _sum_of(outcome: Any) -> str:
    """Return a hash of an outcome, which detects changes of the file."""
    return hashlib.sha256(json.dumps(outcome, sort_keys=True).encode()).hexdigest()[:16]


def _plain(key: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps({"kdiga": installed_version("kdiga"), **key}))
