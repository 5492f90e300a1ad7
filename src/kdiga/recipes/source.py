"""YAML files as plain data with the line of every key, and the reader that turns their sections into dataclasses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from kdiga.errors import InputError, nearest
from kdiga.io.safe_json_yaml import parse_yaml
from kdiga.io.untrusted_file import read_text
from kdiga.recipes.shipped import find_recipe
from kdiga.types import ThreatModel, parse_number

T = TypeVar("T")
Keys = tuple[str, ...]
LONGEST = 600  # characters of a message about one key


@dataclass(frozen=True)
class YamlSource:
    """The content of a YAML file."""

    path: str  # path of the file, for messages
    data: dict[str, Any]  # content, with overrides applied
    lines: Mapping[Keys, int]  # line of each key, from 1

    def problem(self, keys: Sequence[str], message: str) -> str:
        """Return a message about a key, with the file and the line of the key."""
        line = self.lines.get(tuple(keys))
        return f"{_shorten('.'.join(keys))}: {_shorten(message)} ({self.path}{f':{line}' if line else ''})"


class SectionReader:
    """Reads sections of a YAML file into dataclasses, and collects all problems with their lines.

    Args:
        source: File with the sections.
        short: Key that a text stands for, by dataclass. With ``{ModelConfig: "name"}``, ``student: cnn-8`` is short
            for ``student: {name: cnn-8}``.
    """

    def __init__(self, source: YamlSource, short: Mapping[type, str] | None = None) -> None:
        self.source, self.short, self.problems = source, short or {}, list[str]()

    def problem(self, keys: Sequence[str], message: str) -> None:
        """Collect a problem with a key."""
        self.problems.append(self.source.problem(keys, message))

    def check(self) -> None:
        """Check that there is no problem so far."""
        if self.problems:
            # A problem of a part that several runs share is a problem of each of them.
            raise InputError("\n".join(dict.fromkeys(self.problems)))

    def check_keys(self, above: Sequence[str], given: Mapping[Any, Any], accepted: Sequence[str]) -> None:
        """Collect every key that is not accepted, with the nearest accepted key."""
        for key in given:
            if key not in accepted:
                self.problem((*above, str(key)), f"unknown key; {nearest_or_all(str(key), accepted)}")

    def mapping(self, keys: Sequence[str], given: object, short: str | None = None) -> dict[str, Any]:
        """Return a section as a dictionary; collect a problem and return {} for other values."""
        if isinstance(given, str) and short is not None:
            return {short: given}
        if isinstance(given, dict):
            return dict(cast("dict[str, Any]", given))
        self.problem(keys, f"was {given!r}; it is a section of keys")
        return {}

    def section(self, keys: Keys, kind: type[T], given: object, **nested: type) -> T | None:
        """Return a section as a dataclass; collect its problems and return None if it has any.

        ``nested`` has the dataclasses of the keys that are sections, too.
        """
        values = self.mapping(keys, given, self.short.get(kind))
        types = {field.name: str(field.type) for field in fields(kind)}  # pyright: ignore[reportArgumentType]
        self.check_keys(keys, values, list(types))
        known = {key: _parse_number_text(value, types[key]) for key, value in values.items() if key in types}
        if kind is ThreatModel and "norm" in known:
            known["norm"] = str(known["norm"]).lower()
        for key, inner in nested.items():
            if known.get(key) is not None:
                known[key] = self.section((*keys, key), inner, known[key])
        for key, value in known.items():
            # Pydantic accepts true as the number 1.
            if isinstance(value, bool) and re.search(r"\b(int|float)\b", types[key]) and "bool" not in types[key]:
                self.problem((*keys, key), f"was {value!r}; it is a number")
        try:
            return _adapter(kind).validate_python(known)
        except ValidationError as error:
            for problem in error.errors():
                complete = problem["type"] in ("value_error", "missing")
                value = "" if complete else f" (was {problem['input']!r})"
                where = (*keys, *(str(part) for part in problem["loc"][:1]))
                self.problem(where, problem["msg"].removeprefix("Value error, ") + value)
        return None


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    # A study reads the same few kinds of sections hundreds of times, and an adapter is slow to build.
    return TypeAdapter(kind)


def nearest_or_all(given: str, accepted: Sequence[str] | Mapping[str, Any]) -> str:
    """Return the end of a message about an unknown name: the nearest accepted name, else all accepted names."""
    close = nearest(given, accepted, most=1)
    return f"did you mean {close[0]}?" if close else f"accepted: {', '.join(accepted)}"


def _parse_number_text(value: object, kind: str) -> object:
    # 8/255 is text in YAML; so is 1e-3, without the dot that YAML 1.1 needs. A folder may be called . or 2026/11.
    text_alone = re.search(r"\b(str|Path)\b", kind) and not re.search(r"\b(int|float)\b", kind)
    if isinstance(value, str) and not text_alone and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?( */ *\d+)?", value):
        return parse_number(value)
    return value


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


@dataclass(frozen=True)
class FileKind:
    """A kind of YAML file, for messages."""

    name: str  # name such as "recipe"
    needs: str  # required sections
    override: str  # example of an override


RECIPE = FileKind("recipe", "data, student, method", "training.seed=1")
CLAIMS = FileKind("claims recipe", "data, teachers, students and methods", "training.epochs=2")
STUDY = FileKind("study", "base and methods", "base.training.epochs=2")


def read_source(path: str | Path, overrides: Sequence[str], kind: FileKind) -> YamlSource:
    """Read a YAML file, given by its path or its name, and apply overrides such as ``training.epochs=2``.

    Raises:
        InputError: If the file is missing, not YAML, empty, or has a key twice.
    """
    path = find_recipe(path, kind.name)
    try:
        data, node = parse_yaml(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{kind.name} {str(path)!r} cannot be read ({error}); give a YAML file.") from None
    except ValueError as error:
        raise InputError(f"{kind.name} {str(path)!r} is not YAML: {error!s:.{LONGEST}}") from None
    if not isinstance(data, dict):
        raise InputError(f"{kind.name} {str(path)!r} holds no sections; it needs {kind.needs}.")
    found = list(_lines(node))
    source = YamlSource(str(path), cast("dict[str, Any]", data), dict(found))
    # YAML silently ignores the first of two equal keys.
    lines: dict[Keys, int] = {}
    twice = [
        f"{'.'.join(keys)}: appears twice ({path}:{lines[keys]} and {path}:{line}); rename one."
        for keys, line in found
        if lines.setdefault(keys, line) != line
    ]
    if twice:
        raise InputError("\n".join(twice))
    for override in overrides:
        _apply(source.data, override, kind)
    return source


def kind_of(data: Mapping[str, Any]) -> FileKind:
    """Return the kind of a file, by its sections."""
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
    for number, part in enumerate(above):
        inner = place.get(part)
        if isinstance(inner, str):
            inner = _written_out(inner, above[: number + 1])
        place[part] = inner = dict(cast("dict[str, Any]", inner)) if isinstance(inner, dict) else {}
        place = inner
    place[last] = value


def _written_out(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the section that a text is short for: ``kd: kd`` for ``kd: {name: kd}``."""
    if keys[-2:] == ["data", "extra"]:
        return {"path": text}
    return {text: {}} if keys[-2:] == ["method", "with"] else {"name": text}


def _lines(node: Any, above: Keys = ()) -> list[tuple[Keys, int]]:
    found: list[tuple[Keys, int]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*above, str(key.value))
            found.append((keys, key.start_mark.line + 1))
            found += _lines(value, keys)
    return found
