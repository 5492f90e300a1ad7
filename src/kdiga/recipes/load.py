"""From YAML text to a validated recipe: parsed once, overridden, checked as a whole, all errors told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from kdiga.errors import InputError, nearest
from kdiga.methods import Method, available_methods
from kdiga.recipes.schema import CacheConfig, DataConfig, ExtraConfig, ModelConfig, Recipe, Rounds
from kdiga.recipes.source import CLAIMS, RECIPE, STUDY, kind_of, read_source, shortened
from kdiga.training import TrainingSettings
from kdiga.types import ThreatModel, parse_number

Lines = Mapping[tuple[str, ...], int]
SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "student": ModelConfig,
    "teacher": ModelConfig,
    "threat": ThreatModel,
    "training": TrainingSettings,
    "second_teacher": ModelConfig,
    "rounds": Rounds,
    "cache": CacheConfig,
}
REQUIRED = ("data", "student", "method")
SHORT = {"data.extra": "path"}  # `extra: FILE` is short for `extra: {path: FILE}`
NAMED = ("data", "student", "teacher", "second_teacher", "method")  # `method: kd` is short for `method: {name: kd}`


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides.

    Args:
        path: of a YAML file, or a name that ``kdiga recipes`` lists.
        overrides: such as ``training.seed=1``; the value is YAML.

    Raises:
        InputError: for a missing or malformed file, and for every unknown key, wrong type or value
            out of range, all in one message with the lines they are on.
    """
    source = read_source(path, overrides, RECIPE)
    kind = kind_of(source.data)
    if kind is STUDY:
        raise InputError(f"{source.path!r} is a study of several runs, not a recipe of one; run it with `kdiga study`.")
    if kind is CLAIMS:
        raise InputError(f"{source.path!r} is a test of claims, not a recipe of one run; run it with `kdiga claims`.")
    return recipe_from_dict(source.data, origin=source.path, lines=source.lines)


def recipe_from_dict(data: Mapping[str, Any], *, origin: str = "recipe", lines: Lines | None = None) -> Recipe:
    """Validate a recipe given as plain data.

    Args:
        data: sections by name.
        origin: what to call the recipe in messages.
        lines: where each key stands in the file.

    Raises:
        InputError: with every problem in one message.
    """
    reader = _RecipeReader(origin, lines or {})
    reader.keys("", data, (*SECTIONS, "method"))
    for key in REQUIRED:
        if data.get(key) is None:
            reader.problem((key,), "missing section")
    parts = {
        name: reader.section(name, kind, data[name]) for name, kind in SECTIONS.items() if data.get(name) is not None
    }
    method = None if data.get("method") is None else reader.method(data["method"])
    reader.check()
    recipe = Recipe(
        parts["data"],
        parts["student"],
        cast("Method", method),
        parts.get("teacher"),
        parts.get("threat", ThreatModel()),
        parts.get("training", TrainingSettings()),
        parts.get("second_teacher"),
        parts.get("rounds"),
        parts.get("cache"),
    )
    _check_teachers(reader, recipe)
    _check_cache(reader, recipe)
    if recipe.data.extra is not None and recipe.data.extra.labels == "teacher" and recipe.teacher is None:
        reader.problem(("data", "extra", "labels"), "was 'teacher' and the recipe has none; give a section teacher")
    reader.check()
    return recipe


def _check_teachers(reader: _RecipeReader, recipe: Recipe) -> None:
    name, wanted = recipe.method.info.name, recipe.method.needs.teachers
    if recipe.rounds is not None and not wanted:
        reader.problem(("rounds",), f"method {name} learns from no teacher; rounds need one that does, such as kdiga")
    if wanted >= 1 and recipe.teacher is None and recipe.rounds is None:
        reader.problem(
            ("teacher",),
            f"missing section; method {name} needs one. Give teacher.name: the folder of a run, a checkpoint, or an "
            "architecture with weights",
        )
    if wanted == 2 and recipe.second_teacher is None:
        reader.problem(
            ("second_teacher",),
            f"missing section; method {name} learns from two. Give second_teacher.name: a naturally trained model",
        )
    given = {"teacher": recipe.teacher, "second_teacher": recipe.second_teacher}
    for key, model in list(given.items())[:wanted]:
        along = key == "teacher" and recipe.method.needs.trains_teacher
        if model is not None and model.is_fresh and not along:
            reader.problem(
                (key,),
                f"{model.name} has fresh weights, so it has nothing to teach, and method {name} does not train it. "
                f"Give {key}.weights, {key}.pretrained, the folder of a run, or a checkpoint",
            )


def _check_cache(reader: _RecipeReader, recipe: Recipe) -> None:
    if recipe.cache is None:
        return
    name, needs = recipe.method.info.name, recipe.method.needs
    reasons = {
        f"method {name} learns from no teacher, so there is nothing to store": needs.teachers == 0,
        f"method {name} trains its teacher along, and stored signals would stay as they are": needs.trains_teacher,
        f"method {name} asks its teacher at images of its own making, which no store holds": needs.teacher_queries,
        f"method {name} learns from two teachers and a store holds one": needs.teachers == 2,
        "data.extra adds images to the batches that no store holds": recipe.data.extra is not None,
        "rounds have a new teacher each, and a store holds one": recipe.rounds is not None,
    }
    reason = next((reason for reason, applies in reasons.items() if applies), None)
    if reason is not None:
        reader.problem(("cache",), f"{reason}; leave the section out, or see `kdiga methods` for those that never ask")
    if recipe.training.precision == "auto":
        reader.problem(
            ("training", "precision"), "was 'auto'; a teacher cache is filled in one precision. Name it: fp32 or bf16"
        )


class _RecipeReader:
    """Turns sections into dataclasses and gathers what is wrong with them."""

    def __init__(self, origin: str, lines: Lines) -> None:
        self.origin, self.lines, self.problems = origin, lines, list[str]()

    def problem(self, keys: Sequence[str], message: str) -> None:
        line = self.lines.get(tuple(keys))
        self.problems.append(
            f"{shortened('.'.join(keys))}: {shortened(message)} ({self.origin}{f':{line}' if line else ''})"
        )

    def check(self) -> None:
        if self.problems:
            raise InputError("\n".join(self.problems))

    def keys(self, section: str, given: Mapping[str, Any], accepted: Sequence[str]) -> None:
        for key in given:
            if key not in accepted:
                self.problem([*filter(None, section.split(".")), str(key)], f"unknown key; {_hint(str(key), accepted)}")

    def method(self, given: object) -> Method | None:
        methods = available_methods()
        options = dict(self._mapping("method", given))
        name = options.pop("name", None)
        if not isinstance(name, str):
            self.problem(("method",), f"needs a name; accepted: {', '.join(methods)}")
        elif name not in methods:
            self.problem(("method", "name"), f"{name!r} is not known; {_hint(name, methods)}")
        else:
            return self.section("method", methods[name], options)
        return None

    def section(self, section: str, kind: type, given: object) -> Any:
        values = self._mapping(section, given)
        accepted = [field.name for field in fields(kind)]
        self.keys(section, values, accepted)
        known = {key: _number(value) for key, value in values.items() if key in accepted}
        if kind is DataConfig and known.get("extra") is not None:
            known["extra"] = self.section(f"{section}.extra", ExtraConfig, known["extra"])
        if kind is ThreatModel and "norm" in known:
            known["norm"] = str(known["norm"]).lower()
        for field in fields(kind):
            value = known.get(field.name)
            if (
                isinstance(value, bool)
                and re.search(r"\b(int|float)\b", str(field.type))
                and "bool" not in str(field.type)
            ):
                self.problem((*section.split("."), field.name), f"was {value!r}; it is a number")
        try:
            return TypeAdapter(kind).validate_python(known)
        except ValidationError as error:
            for problem in error.errors():
                keys = (*section.split("."), *(str(part) for part in problem["loc"][:1]))
                told = problem["type"] in ("value_error", "missing")
                value = "" if told else f" (was {problem['input']!r})"
                self.problem(keys, problem["msg"].removeprefix("Value error, ") + value)
        return None

    def _mapping(self, section: str, given: object) -> dict[str, Any]:
        if isinstance(given, str) and section in NAMED:
            return {"name": given}
        if isinstance(given, str) and section in SHORT:
            return {SHORT[section]: given}
        if isinstance(given, dict):
            return cast("dict[str, Any]", given)
        self.problem(section.split("."), f"was {given!r}; it is a section of keys")
        return {}


def _number(value: object) -> object:
    # 8/255 is text to YAML; so is 1e-3, which lacks YAML 1.1's dot.
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?( */ *\d+)?", value):
        return parse_number(value)
    return value


def _hint(given: str, choices: Sequence[str] | Mapping[str, Any]) -> str:
    close = nearest(given, choices, most=1)
    return f"did you mean {close[0]}?" if close else f"accepted: {', '.join(choices)}"
