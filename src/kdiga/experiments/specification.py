"""A specification file of an experiment: its sections as settings and recipes, every problem with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from kdiga.errors import InputError
from kdiga.experiments.board import RunSpec
from kdiga.recipes.schema import Recipe
from kdiga.recipes.source import Keys, SectionReader, nearest_or_all
from kdiga.recipes.validate import recipe_from_dict

LABEL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
T = TypeVar("T")


class SpecificationReader(SectionReader):
    """Reads the sections of an experiment, and collects all problems with their lines."""

    def at(self, keys: Keys) -> Any:
        """Return what stands at a key; None where nothing does."""
        place: Any = self.source.data
        for key in keys:
            place = cast("dict[str, Any]", place).get(key) if isinstance(place, dict) else None
        return place

    def entries(self, keys: Keys) -> dict[Any, Any]:
        """Return the entries of a section, none where there is no section."""
        given = self.at(keys)
        if given is not None and not isinstance(given, dict):
            self.problem(keys, f"was {given!r}; it is a section of labels")
        return cast("dict[Any, Any]", given) if isinstance(given, dict) else {}

    def settings(self, name: str, kind: type[T]) -> T:
        """Return a section as a dataclass, its default where there is none or it has a problem."""
        given = self.at((name,))
        return kind() if given is None else self.section((name,), kind, given) or kind()

    def labels(self, keys: Keys, reserved: Sequence[str] = ()) -> dict[str, Any]:
        """Return the entries of a section by label, which names a folder."""
        found = self.entries(keys)
        for label in found:
            if not isinstance(label, str) or not LABEL.fullmatch(label):
                self.problem(
                    (*keys, str(label)),
                    f"{label!r} is not a label; use letters, digits, '_', '-' and '.', not first, and quote what YAML "
                    "would take for a number or yes and no",
                )
            elif label.lower() in reserved:
                self.problem((*keys, label), "is a name that the folders need; rename it")
        return {str(label): value for label, value in found.items()}

    def names(self, keys: Keys, known: Sequence[str], where: str) -> list[str]:
        """Return a list of labels of another section."""
        given = self.at(keys)
        if not isinstance(given, list) or not given:
            self.problem(keys, f"was {given!r}; list at least one of {where}: {', '.join(known)}")
            return []
        names = cast("list[Any]", given)
        for name in names:
            if name not in known:
                self.problem(keys, f"{name!r} is not among {where}; {nearest_or_all(str(name), known)}")
        if len(set(map(str, names))) < len(names):
            self.problem(keys, f"was {given!r}; list each once")
        return [str(name) for name in names]

    def seeds(self) -> tuple[int, ...]:
        """Return the seeds, [0] where there are none."""
        given: Any = self.source.data.get("seeds", [0])
        seeds = cast("list[Any]", given if isinstance(given, list) else [])
        if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
            self.problem(("seeds",), f"was {given!r}; it is a list of at least one seed, each once, such as [0, 1, 2]")
            return (0,)
        return tuple(seeds)

    def laid_over(self, below: Sections, where: Keys, short: str, accepted: Sequence[str]) -> Sections:
        """Return sections with the entry at ``where`` over them: sections with ``short`` among them, or that one."""
        given = self.at(where)
        if not isinstance(given, dict) or short not in given:
            return below.with_section(short, given, where)
        entry = cast("dict[str, Any]", given)
        self.check_keys(where, entry, accepted)
        return below.over(entry, where)

    def recipe(self, sections: Sections, where: Keys) -> Recipe | None:
        """Return the recipe of some sections; missing ones are reported at ``where``."""
        parts = ("method", "student", "teacher", "second_teacher", "training", "rounds")
        lines = {
            (name, *keys[len(place) :]): line
            for name, places in {**dict.fromkeys(parts, (where,)), **sections.places}.items()
            for place in places
            for keys, line in self.source.lines.items()
            if keys[: len(place)] == place
        }
        try:
            return recipe_from_dict(sections.data, origin=self.source.path, lines=lines)
        except InputError as error:
            self.problems += str(error).splitlines()
        return None

    def check_folders(self, run_specs: Sequence[RunSpec]) -> None:
        """Note runs whose folders or records would be one, also on systems that ignore the case of letters."""
        seen: dict[str, RunSpec] = {}
        for run_spec in run_specs:
            other = seen.setdefault(record_name(run_spec).lower(), run_spec)
            if other is not run_spec:
                self.problem(
                    ("teachers" if run_spec.kind == "teacher" else "methods", run_spec.label),
                    f"{other.folder}, of {other.label}, and {run_spec.folder}, of {run_spec.label}, would be one "
                    "folder or record; rename one",
                )
                return


def record_name(run_spec: RunSpec) -> str:
    """Return the folder of a run in one word, which names its record."""
    return run_spec.folder.replace("/", "--")


@dataclass(frozen=True)
class Sections:
    """Sections of a recipe put together from several places of a file."""

    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    # Where each section, or what is reported of a missing one, stands; a later place lies over an earlier one.
    places: Mapping[str, tuple[Keys, ...]] = field(default_factory=dict[str, tuple[Keys, ...]])

    def over(self, given: Mapping[str, Any], where: Keys) -> Sections:
        """Return these sections with those at ``where`` in the file laid over them.

        A section with a name replaces the one below; without, its keys are set in it.
        """
        data, places = dict(self.data), dict(self.places)
        for section, value in given.items():
            below, place = self.data.get(section), (*where, str(section))
            if isinstance(value, dict) and "name" not in value and below is not None and section != "method":
                data[section] = named(below) | cast("dict[str, Any]", value)
                places[section] = (*places.get(section, ()), place)
            else:
                data[section], places[section] = value, (place,)
        return Sections(data, places)

    def with_section(self, name: str, given: object, *where: Keys) -> Sections:
        """Return these sections with another section ``name``, which stands at ``where``."""
        return Sections({**self.data, name: given}, {**self.places, name: where or self.places.get(name, ())})

    def only(self, names: Sequence[str]) -> Sections:
        """Return the sections of these names."""
        return Sections(
            {name: section for name, section in self.data.items() if name in names},
            {name: places for name, places in self.places.items() if name in names},
        )


def named(section: object) -> dict[str, Any]:
    """Return a section as keys: ``cnn-8`` is short for ``{name: cnn-8}``."""
    if isinstance(section, dict):
        return dict(cast("dict[str, Any]", section))
    return {"name": section}
