"""A YAML file as plain data, with the line of every key: what recipes and studies are read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from kdiga.errors import InputError
from kdiga.io.safe_json_yaml import parse_yaml
from kdiga.recipes.shipped import find_recipe

Keys = tuple[str, ...]
LONGEST = 600  # characters of a message about one key


@dataclass(frozen=True)
class YamlSource:
    """What a file says, and where.

    Args:
        path: of the file, for messages.
        data: its content, overrides applied.
        lines: of each key, from 1.
    """

    path: str
    data: dict[str, Any]
    lines: Mapping[Keys, int]

    def problem(self, keys: Keys, message: str) -> str:
        """Return a message that says which key, where in the file."""
        line = self.lines.get(keys)
        return f"{shortened('.'.join(keys))}: {shortened(message)} ({self.path}{f':{line}' if line else ''})"


def shortened(text: str) -> str:
    """Return a text that can be told in a line; what was given may be longer than anybody reads."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


@dataclass(frozen=True)
class FileKind:
    """What messages call a file.

    Args:
        name: such as "recipe".
        needs: the sections it cannot do without.
        override: an example of one.
    """

    name: str
    needs: str
    override: str


RECIPE = FileKind("recipe", "data, student, method", "training.seed=1")
CLAIMS = FileKind("claims recipe", "data, teachers, students and methods", "training.epochs=2")
STUDY = FileKind("study", "base and methods", "base.training.epochs=2")


def read_source(path: str | Path, overrides: Sequence[str], kind: FileKind) -> YamlSource:
    """Read a YAML file and apply ``key=value`` overrides.

    Args:
        path: of the file, or the name of one that comes with kdiga.
        overrides: such as ``training.epochs=2``; the value is YAML.
        kind: what messages call it.

    Raises:
        InputError: for a file that is missing, not YAML, empty, or says a key twice.
    """
    path = find_recipe(path, kind.name)
    try:
        data, node = parse_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{kind.name} {str(path)!r} cannot be read ({error}); give a YAML file.") from None
    except ValueError as error:
        raise InputError(f"{kind.name} {str(path)!r} is not YAML: {error!s:.{LONGEST}}") from None
    if not isinstance(data, dict):
        raise InputError(f"{kind.name} {str(path)!r} holds no sections; it needs {kind.needs}.")
    found = list(_lines(node))
    source = YamlSource(str(path), cast("dict[str, Any]", data), dict(found))
    # YAML keeps the last of two equal keys, so half of what was meant would vanish without a word.
    lines: dict[Keys, int] = {}
    twice = [
        f"{'.'.join(keys)}: stands twice ({path}:{lines[keys]} and {path}:{line}); rename one."
        for keys, line in found
        if lines.setdefault(keys, line) != line
    ]
    if twice:
        raise InputError("\n".join(twice))
    for override in overrides:
        _apply(source.data, override, kind)
    return source


def kind_of(data: Mapping[str, Any]) -> FileKind:
    """Return what a file's sections make it."""
    if {"base", "methods"} <= data.keys():
        return STUDY
    return CLAIMS if {"students", "methods"} <= data.keys() else RECIPE


def _apply(data: dict[str, Any], override: str, kind: FileKind) -> None:
    key, equals, text = override.partition("=")
    *above, last = key.strip().split(".")
    if not equals or not all((*above, last)):
        raise InputError(f"override was {override!r}; write it as key=value, for example {kind.override}.")
    try:
        value, _ = parse_yaml(text)
    except ValueError:
        raise InputError(f"override {override!r:.{LONGEST}} has a value that is not YAML; quote it.") from None
    place = data
    for part in above:
        inner = place.get(part)
        if isinstance(inner, str):  # `kd: kd` is short for `kd: {name: kd}`, as `student: cnn-8` is
            inner = {"name": inner}
        place[part] = inner = dict(cast("dict[str, Any]", inner)) if isinstance(inner, dict) else {}
        place = inner
    place[last] = value


def _lines(node: Any, above: Keys = ()) -> list[tuple[Keys, int]]:
    found: list[tuple[Keys, int]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*above, str(key.value))
            found.append((keys, key.start_mark.line + 1))
            found += _lines(value, keys)
    return found
