"""From YAML text to a validated recipe: parsed once, overridden, checked as a whole, all errors told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from kdiga.config.schema import DataConfig, ModelConfig, Recipe
from kdiga.errors import InputError, nearest
from kdiga.methods import available_methods
from kdiga.training import TrainingSettings
from kdiga.types import ThreatModel, parse_number

Lines = Mapping[tuple[str, ...], int]
SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "student": ModelConfig,
    "teacher": ModelConfig,
    "threat": ThreatModel,
    "training": TrainingSettings,
}
REQUIRED = ("data", "student", "method")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides.

    Args:
        path: of a YAML file.
        overrides: such as ``training.seed=1``; the value is YAML.

    Raises:
        InputError: for a missing or malformed file, and for every unknown key, wrong type or value
            out of range, all in one message with the lines they are on.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {str(path)!r} cannot be read ({error}); give a YAML file.") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"recipe {str(path)!r} holds no sections; it needs {', '.join(REQUIRED)}.")
    recipe = cast("dict[str, Any]", data)
    for override in overrides:
        _apply(recipe, override)
    lines = {keys: line for keys, line in _lines(node)}
    return recipe_from_dict(recipe, origin=str(path), lines=lines)


def recipe_from_dict(data: Mapping[str, Any], *, origin: str = "recipe", lines: Lines | None = None) -> Recipe:
    """Validate a recipe given as plain data.

    Args:
        data: sections by name.
        origin: what to call the recipe in messages.
        lines: where each key stands in the file.

    Raises:
        InputError: with every problem in one message.
    """
    problems: list[str] = []

    def where(*keys: str) -> str:
        line = (lines or {}).get(keys)
        return f" ({origin}:{line})" if line else f" ({origin})"

    for key in data:
        if key not in (*SECTIONS, "method"):
            problems.append(f"{key}: unknown section; {_hint(str(key), (*SECTIONS, 'method'))}{where(str(key))}")
    for key in REQUIRED:
        if data.get(key) is None:
            problems.append(f"{key}: missing section{where()}")
    parts: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        if data.get(section) is not None:
            parts[section] = _section(section, kind, data[section], problems, where)
    if data.get("method") is not None:
        parts["method"] = _method(data["method"], problems, where)
    if problems:
        raise InputError("\n".join(problems))
    recipe = Recipe(
        parts["data"], parts["student"], parts["method"], parts.get("teacher"),
        parts.get("threat", ThreatModel()), parts.get("training", TrainingSettings()),
    )  # fmt: skip
    if recipe.method.info.teacher and recipe.teacher is None:
        raise InputError(
            f"teacher: missing section; method {recipe.method.info.name} needs one. Give teacher.name: the folder of a "
            f"run, a checkpoint or an architecture with weights{where()}"
        )
    return recipe


def _method(given: object, problems: list[str], where: Any) -> Any:
    methods = available_methods()
    section = {"name": given} if isinstance(given, str) else given
    if not isinstance(section, dict) or not isinstance(cast("dict[str, Any]", section).get("name"), str):
        problems.append(f"method: needs a name; accepted: {', '.join(methods)}{where('method')}")
        return None
    options = dict(cast("dict[str, Any]", section))
    name = options.pop("name")
    if name not in methods:
        problems.append(f"method.name: {name!r} is not known; {_hint(name, methods)}{where('method', 'name')}")
        return None
    return _section("method", methods[name], options, problems, where)


def _section(section: str, kind: type, given: object, problems: list[str], where: Any) -> Any:
    if section == "data" and isinstance(given, str):
        given = {"name": given}
    if section in ("student", "teacher") and isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, dict):
        problems.append(f"{section}: was {given!r}; it is a section of keys{where(section)}")
        return None
    values = cast("dict[str, Any]", given)
    accepted = [field.name for field in fields(kind)]
    unknown = [key for key in values if key not in accepted]
    for key in unknown:
        problems.append(f"{section}.{key}: unknown key; {_hint(str(key), accepted)}{where(section, str(key))}")
    known = {key: _number(value) for key, value in values.items() if key in accepted}
    if section == "threat" and isinstance(known.get("norm"), str):
        known["norm"] = known["norm"].lower()
    try:
        return TypeAdapter(kind).validate_python(known)
    except ValidationError as error:
        for problem in error.errors():
            keys = tuple(str(part) for part in problem["loc"][:1])
            message = problem["msg"].removeprefix("Value error, ")
            value = "" if problem["type"] in ("value_error", "missing") else f" (was {problem['input']!r})"
            problems.append(f"{'.'.join((section, *keys))}: {message}{value}{where(section, *keys)}")
    return None


def _number(value: object) -> object:
    # 8/255 is text to YAML; so is 1e-3, which lacks YAML 1.1's dot.
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?( */ *\d+)?", value):
        return parse_number(value)
    return value


def _hint(given: str, choices: Sequence[str] | Mapping[str, Any]) -> str:
    close = nearest(given, choices, most=1)
    return f"did you mean {close[0]}?" if close else f"accepted: {', '.join(choices)}"


def _apply(recipe: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    sections = key.strip().split(".")
    if not equals or not all(sections):
        raise InputError(f"override was {override!r}; write it as section.key=value, for example training.seed=1.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"override {override!r} has a value that is not YAML; quote it.") from None
    place = recipe
    for section in sections[:-1]:
        inner = place.get(section)
        if isinstance(inner, str):  # `method: kdiga` is short for `method: {name: kdiga}`
            inner = {"name": inner}
        place[section] = inner = dict(cast("dict[str, Any]", inner)) if isinstance(inner, dict) else {}
        place = inner
    place[sections[-1]] = value


def _lines(node: Any, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], int]]:
    found: list[tuple[tuple[str, ...], int]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*above, str(key.value))
            found.append((keys, key.start_mark.line + 1))
            found += _lines(value, keys)
    return found
