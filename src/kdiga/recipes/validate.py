"""From YAML text to a validated recipe: one reader reports all problems of a file together, with their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError
from kdiga.methods import Combined, Method, available_methods
from kdiga.methods.base import methods_for
from kdiga.recipes.schema import CacheConfig, DataConfig, ExtraConfig, ModelConfig, Recipe, Rounds
from kdiga.recipes.source import (
    CLAIMS,
    RECIPE,
    STUDY,
    Keys,
    SectionReader,
    YamlSource,
    kind_of,
    nearest_or_all,
    read_source,
)
from kdiga.training import TrainingSettings
from kdiga.types import ThreatModel

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
SHORT = {DataConfig: "name", ModelConfig: "name", ExtraConfig: "path"}
NESTED = {DataConfig: {"extra": ExtraConfig}}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides.

    Args:
        path: Path of a YAML file, or a name that ``kdiga recipes`` lists.
        overrides: Overrides such as ``training.seed=1``; the value is YAML.

    Raises:
        InputError: If the file is missing or malformed, or has unknown keys, wrong types or values out of range. One
            message names all problems and their lines.
    """
    source = read_source(path, overrides, RECIPE)
    kind = kind_of(source.data)
    if kind is STUDY:
        raise InputError(f"{source.path!r} is a study of several runs, not a recipe of one; run it with `kdiga study`.")
    if kind is CLAIMS:
        raise InputError(f"{source.path!r} is a test of claims, not a recipe of one run; run it with `kdiga claims`.")
    return recipe_from_dict(source.data, origin=source.path, lines=source.lines)


def recipe_from_dict(
    data: Mapping[str, Any], *, origin: str = "recipe", lines: Mapping[Keys, int] | None = None
) -> Recipe:
    """Validate a recipe given as plain data, with the line of each key where it comes from a file.

    Raises:
        InputError: If there are problems; one message names all.
    """
    reader = SectionReader(YamlSource(origin, dict(data), lines or {}), SHORT)
    reader.check_keys((), data, (*SECTIONS, "method"))
    for key in REQUIRED:
        if data.get(key) is None:
            reader.problem((key,), "missing section")
    sections = dict[str, Any]()
    for name, kind in SECTIONS.items():
        if data.get(name) is not None:
            sections[name] = reader.section((name,), kind, data[name], **NESTED.get(kind, {}))
    if data.get("method") is not None:
        sections["method"] = _read_method(reader, data["method"])
    reader.check()
    defaults: dict[str, Any] = {"teacher": None, "threat": ThreatModel(), "training": TrainingSettings()}
    recipe = Recipe(**defaults | sections)
    if recipe.threat.norm == "l1":
        reader.problem(("threat", "norm"), "was 'l1', which only kdiga evaluate accepts; train under linf or l2")
    _check_teachers(reader, recipe)
    _check_cache(reader, recipe)
    if recipe.data.extra is not None and recipe.data.extra.labels == "teacher" and recipe.teacher is None:
        reader.problem(("data", "extra", "labels"), "was 'teacher' and the recipe has none; give a section teacher")
    reader.check()
    return recipe


def _read_method(reader: SectionReader, given: object) -> Method | None:
    options = reader.mapping(("method",), given, "name")
    name, added = options.pop("name", None), options.pop("with", None)
    methods = methods_for(name)
    if not isinstance(name, str):
        reader.problem(("method",), f"needs a name; accepted: {', '.join(methods)}")
    elif name not in methods:
        reader.problem(("method", "name"), f"{name!r} is not known; {nearest_or_all(name, methods)}")
    else:
        base = reader.section(("method",), methods[name], options)
        return base if added is None or base is None else _with_added(reader, base, added)
    return None


def _with_added(reader: SectionReader, base: Method, given: object) -> Method | None:
    """Return a method with the terms of the methods under ``with``."""
    keys, methods = ("method", "with"), available_methods()
    names = {given: {}} if isinstance(given, str) else reader.mapping(keys, given)
    reader.check_keys(keys, names, list(methods))
    added = [reader.section((*keys, name), methods[name], names[name] or {}) for name in names if name in methods]
    try:
        return cast("Method", Combined(base, tuple(one for one in added if one is not None))) if added else base
    except InputError as error:
        reader.problem(keys, str(error).rstrip("."))
    return None


def _check_teachers(reader: SectionReader, recipe: Recipe) -> None:
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


def _check_cache(reader: SectionReader, recipe: Recipe) -> None:
    if recipe.cache is None:
        return
    name, needs = recipe.method.info.name, recipe.method.needs
    reasons = {
        f"method {name} uses no teacher, so there is nothing to store": needs.teachers == 0,
        f"method {name} trains its teacher, and stored signals do not change": needs.trains_teacher,
        f"method {name} queries its teacher on perturbed images, which are not in a cache": needs.teacher_queries,
        f"method {name} uses two teachers, and a cache holds one": needs.teachers == 2,
        "data.extra adds images that are not in a cache": recipe.data.extra is not None,
        "each round has a new teacher, and a cache holds one": recipe.rounds is not None,
    }
    reason = next((reason for reason, applies in reasons.items() if applies), None)
    if reason is not None:
        reader.problem(
            ("cache",), f"{reason}; leave the section out, or take a method that needs no queries (`kdiga methods`)"
        )
    if recipe.training.precision == "auto":
        reader.problem(
            ("training", "precision"), "was 'auto'; a teacher cache is filled in one precision. Name it: fp32 or bf16"
        )
