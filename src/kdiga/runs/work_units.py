"""Long work in portions: each is kept when it is done, so a killed process goes on where it was and several share it.

What a portion is about decides where it is kept. So the same command continues, a wider one (more attacks, more
examples) takes what is there already, and another model's results are never mistaken for this one's.
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

FOLDER = "portions"  # of a folder of results: where its finished portions lie
POLL = 0.2  # seconds between looks at what other processes work on

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WorkUnit:
    """A part of some long work.

    Args:
        task: what it is part of, for progress.
        key: plain data: everything that decides the outcome; the version of kdiga is added to it. It holds no name of
            a class and no printed form of an object, so that it stays the same when code is renamed.
        size: how much it is, say in examples.
        work: does it and returns plain data, with numbers that are finite.
    """

    task: str
    key: Mapping[str, Any]
    size: int
    work: Callable[[], Any]


class ResultCache:
    """Outcomes by what they are about.

    Args:
        folder: where they are kept; None keeps them in memory, for this process alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._memory: dict[str, str] = {}

    def get(self, key: Mapping[str, Any]) -> Any | None:
        """Return an outcome; None where there is none, or where its file is damaged."""
        name = key_hash(key)
        if name not in self._memory:
            if self.folder is None:
                return None
            try:
                kept = load_json(self.folder / f"{name}.json")
                # Those of earlier versions have no sum, which is not a sum of null.
                if kept["key"] != _plain(key) or ("sum" in kept and kept["sum"] != _sum_of(kept["outcome"])):
                    return None
                self._memory[name] = json.dumps(kept["outcome"])
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return None
        return json.loads(self._memory[name])

    def put(self, key: Mapping[str, Any], outcome: Any) -> None:
        """Keep an outcome; on disk at once or not at all."""
        name = key_hash(key)
        self._memory[name] = json.dumps(outcome, allow_nan=False)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"key": _plain(key), "outcome": outcome, "sum": _sum_of(json.loads(self._memory[name]))}
        write_atomically(self.folder / f"{name}.json", json.dumps(kept), shared=True)

    def keep(self, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """Return an outcome, after the work where there is none yet."""
        if self.get(key) is None:
            self.put(key, work())
        return self.get(key)


def run_work_units(
    work_units: Sequence[WorkUnit], result_cache: ResultCache, on_progress: OnProgress | None = None
) -> list[Any]:
    """Return the outcome of every portion, doing those that neither this nor another process has done.

    Args:
        work_units: in the order in which they are worth doing.
        result_cache: where outcomes are kept; processes that share its folder share the work.
        on_progress: told the task, how much of it is done and how much it is in all.
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
    """Return the file name of what a portion is about."""
    return hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:32]


def _sum_of(outcome: Any) -> str:
    """Return a hash of an outcome: a digit that changed on disk is another result, and looks like one."""
    return hashlib.sha256(json.dumps(outcome, sort_keys=True).encode()).hexdigest()[:16]


def _plain(key: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps({"kdiga": installed_version("kdiga"), **key}))
