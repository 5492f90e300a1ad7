"""Which results are about the same model: those of one fingerprint, or, in older files, of one run's weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from kdiga.results.runs import RunResult
from kdiga.results.shared import ModelIdentity


class ModelRegistry:
    """Decides which results are about the same model, from the identities of all results.

    A model named by a path is searched among the runs, by the last parts of the path if the path itself does not exist
    (results are often moved).
    """

    def __init__(self, identities: Iterable[ModelIdentity], runs: Sequence[RunResult]) -> None:
        self._folders = {run.folder.resolve(): run for run in runs}
        self._parent: dict[Hashable, Hashable] = {}
        identities = list(identities)
        weights: dict[tuple[Path, str], set[str]] = defaultdict(set)
        for identity in identities:
            if identity.fingerprint and (place := self._place(identity)):
                weights[place].add(identity.fingerprint)
        self.conflicting = {place for place, found in weights.items() if len(found) > 1}
        for identity in identities:
            first, *others = self._keys(identity)
            for other in others:
                self._parent[self._root(other)] = self._root(first)

    def model(self, identity: ModelIdentity) -> Hashable:
        """Return what all identities of one model share."""
        return self._root(self._keys(identity)[0])

    def run_of(self, identity: ModelIdentity) -> RunResult | None:
        """Return the run whose weights a model has; None if unknown, or if its folder has had others since."""
        place = self._place(identity)
        if place is None:
            return None
        run, fingerprint = self._folders.get(place[0]), identity.fingerprint
        if place in self.conflicting and fingerprint and (run is None or run.fingerprint(place[1]) != fingerprint):
            return None
        return run

    def locate(self, name: str) -> Path | None:
        """Return the folder of the run that a name means; None if none, or more than one, fits."""
        given = Path(name)
        if given.suffix == ".safetensors":
            given = given.parent
        if given.resolve() in self._folders:
            return given.resolve()
        parts = given.parts
        fits = {folder: _shared_end(folder.parts, parts) for folder in self._folders}
        most = max(fits.values(), default=0)
        best = [folder for folder, count in fits.items() if count == most]
        needed = min(len(parts), 2)
        return best[0] if len(best) == 1 and most >= max(1, needed) else None

    def model_of_run(self, folder: Path) -> Hashable:
        """Return what all identities of a run's best weights share."""
        run = self._folders.get(folder.resolve())
        return self.model(
            ModelIdentity(str(folder), "best", fingerprint=run and run.fingerprint("best"), folder=folder)
        )

    def _keys(self, identity: ModelIdentity) -> list[Hashable]:
        keys: list[Hashable] = [identity.fingerprint] if identity.fingerprint else []
        place = self._place(identity)
        if place is not None and not (keys and place in self.conflicting):
            keys.append(place)
        return keys or [(identity.model, identity.which, identity.name)]

    def _place(self, identity: ModelIdentity) -> tuple[Path, str] | None:
        folder = identity.folder or (self.locate(identity.model) if identity.model else None)
        if folder is None:
            return None
        which = "last" if identity.model.endswith("last.safetensors") else "best"
        return folder.resolve(), identity.which or which

    def _root(self, key: Hashable) -> Hashable:
        while key in self._parent and self._parent[key] != key:
            key = self._parent[key]
        return key


def _shared_end(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
