"""A recipe put together from several places of a study file, every key with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from kdiga.recipes.source import Keys, YamlSource


@dataclass
class Sections:
    """Sections of a recipe, and where each key stands.

    Args:
        data: by name.
        lines: by key, as a recipe's reader wants them.
    """

    data: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: dict[Keys, int] = field(default_factory=dict[Keys, int])

    def over(self, given: Mapping[str, Any], source: YamlSource, where: Keys) -> Sections:
        """Return these sections with others laid over them.

        A section with a name replaces the one below; without, its keys are set in it.

        Args:
            given: sections by name.
            source: the file they stand in.
            where: above which keys.
        """
        merged = Sections(dict(self.data), dict(self.lines))
        for section, value in given.items():
            below = self.data.get(section)
            if isinstance(value, dict) and "name" not in value and below is not None and section != "method":
                merged.data[section] = named(below) | cast("dict[str, Any]", value)
            else:
                merged.data[section] = value
                merged.lines = {keys: line for keys, line in merged.lines.items() if keys[0] != section}
            merged.lines |= {
                keys[len(where) :]: line
                for keys, line in source.lines.items()
                if keys[: len(where) + 1] == (*where, str(section))
            }
        return merged

    def only(self, names: tuple[str, ...]) -> Sections:
        """Return the sections of these names."""
        return Sections(
            {name: section for name, section in self.data.items() if name in names},
            {keys: line for keys, line in self.lines.items() if keys[0] in names},
        )

    def method(self, given: object, source: YamlSource, where: Keys) -> Sections:
        """Return these sections with the method section that stands at ``where``."""
        lines = {("method", *keys[len(where) :]): n for keys, n in source.lines.items() if keys[: len(where)] == where}
        return Sections(self.data | {"method": given}, self.lines | lines)

    def located(self, line: int | None, names: tuple[str, ...]) -> Sections:
        """Return these sections with a line for those that are missing: where they are missed."""
        spare: dict[Keys, int] = {} if line is None else {(name,): line for name in names}
        return Sections(self.data, spare | self.lines)


def named(section: object) -> dict[str, Any]:
    """Return a section as keys: ``cnn-8`` is short for ``{name: cnn-8}``."""
    if isinstance(section, dict):
        return dict(cast("dict[str, Any]", section))
    return {"name": section}
