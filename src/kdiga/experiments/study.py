"""From a study file to cells: everything that can be wrong with it is told before anything runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError, nearest
from kdiga.experiments.board import RunSpec
from kdiga.experiments.sections import Sections, named
from kdiga.experiments.settings import EvaluateSettings, TuneSettings, check_keys, read_section
from kdiga.experiments.trials import trial_specs
from kdiga.models import available_models
from kdiga.models.registry import found_at
from kdiga.recipes.load import recipe_from_dict
from kdiga.recipes.schema import Recipe
from kdiga.recipes.source import STUDY, Keys, YamlSource, read_source

TOP = ["base", "teachers", "methods", "seeds", "evaluate", "tune"]
AGREED = ("data", "threat")
TEACHERS = ("teacher", "second_teacher")
SHARED = ("student", *TEACHERS, "training", "rounds")
OF_A_TEACHER = ["student", "method", "training"]
RESERVED = ("teachers", "tuning", "study.json", "cells.csv", "table.md", "scatter.png", "scatter.svg")


@dataclass(frozen=True)
class Study:
    """A study, checked.

    Args:
        path: of its file.
        command: that runs it again.
        out: folder for everything.
        given: what the file says, overrides applied.
        seeds: of every method.
        evaluation: how every model is attacked.
        tune: budget for choosing coefficients, or None.
        run_specs: every run, in the order in which they are worth running.
    """

    path: str
    command: str
    out: Path
    given: Mapping[str, Any]
    seeds: tuple[int, ...]
    evaluation: EvaluateSettings
    tune: TuneSettings | None
    run_specs: tuple[RunSpec, ...]

    def of(self, kind: str) -> dict[str, list[RunSpec]]:
        """Return the cells of a kind by label."""
        found: dict[str, list[RunSpec]] = {}
        for run_spec in self.run_specs:
            if run_spec.kind == kind:
                found.setdefault(run_spec.label, []).append(run_spec)
        return found


def load_study(path: str | Path, out: Path | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read a study file.

    Args:
        path: of a YAML file.
        out: folder for everything; None for ``runs/<file's stem>``.
        overrides: such as ``base.training.epochs=2``.

    Raises:
        InputError: with every problem, each with its line.
    """
    folder = out or Path("runs") / Path(path).stem
    settings = [part for override in overrides for part in ("--set", override)]
    command = shlex.join(["kdiga", "study", str(path), "--out", str(folder), *settings])
    return _Planner(read_source(path, overrides, STUDY), folder, command).study()


class _Planner:
    def __init__(self, source: YamlSource, out: Path, command: str) -> None:
        self.source, self.out, self.command, self.problems = source, out, command, list[str]()
        self.teachers = self._entries("teachers")
        self.needs: dict[str, tuple[str, ...]] = {}  # by label of a method, folders of its teachers

    def study(self) -> Study:
        if "method" in self.source.data and "base" not in self.source.data:
            raise InputError(f"{self.source.path!r} is a recipe of one run, not a study; run it with `kdiga train`.")
        if "students" in self.source.data and "base" not in self.source.data:
            raise InputError(f"{self.source.path!r} is a test of claims, not a study; run it with `kdiga claims`.")
        check_keys(self.source, (), self.source.data, TOP, self.problems)
        evaluation = read_section(self.source, "evaluate", EvaluateSettings, self.problems)
        tune = None
        if self.source.data.get("tune") is not None:
            tune = read_section(self.source, "tune", TuneSettings, self.problems)
        seeds, base, methods = self._seeds(), self._base(), self._entries("methods")
        if not methods:
            self._problem(("methods",), "missing section; list at least one, for example `kd: kd`")
        self._stop()
        teachers = {name: self._teacher(name, given, base) for name, given in self.teachers.items()}
        recipes = {label: self._method(label, given, base) for label, given in methods.items()}
        self._stop()
        run_specs = self._cells(teachers, recipes, seeds, cast("EvaluateSettings", evaluation), tune)
        return Study(
            self.source.path,
            self.command,
            self.out,
            self.source.data,
            seeds,
            cast("EvaluateSettings", evaluation),
            tune,
            tuple(run_specs),
        )

    def _cells(
        self,
        teachers: Mapping[str, Recipe | None],
        recipes: Mapping[str, Recipe | None],
        seeds: tuple[int, ...],
        evaluation: EvaluateSettings,
        tune: TuneSettings | None,
    ) -> list[RunSpec]:
        which = evaluation.which
        run_specs = [
            RunSpec(f"teachers/{name}", name, "teacher", cast("Recipe", recipe), which=which)
            for name, recipe in teachers.items()
        ]
        trials: dict[str, list[RunSpec]] = {}
        for label, recipe in recipes.items():
            if tune is not None:
                trials[label] = trial_specs(
                    _with_seed(recipe, seeds[0]),
                    f"tuning/{label}",
                    label=label,
                    trials=tune.trials,
                    epochs=tune.epochs,
                    needs=self.needs[label],
                )
        run_specs += [run_spec for group in trials.values() for run_spec in group]
        # Seed after seed, so that an unfinished study compares all methods on few seeds and not few methods on all.
        return run_specs + [
            RunSpec(
                f"{label}/seed-{seed}",
                label,
                "method",
                _with_seed(recipe, seed),
                self.needs[label],
                tuple(trial.folder for trial in trials.get(label, ())),
                which,
            )
            for seed in seeds
            for label, recipe in recipes.items()
        ]

    def _problem(self, keys: Keys, message: str) -> None:
        self.problems.append(self.source.problem(keys, message))

    def _stop(self) -> None:
        if self.problems:
            # What is wrong with the base is wrong with every cell; once is enough.
            raise InputError("\n".join(dict.fromkeys(self.problems)))

    def _entries(self, section: str) -> dict[str, Any]:
        given = self.source.data.get(section) or {}
        if not isinstance(given, dict):
            self._problem((section,), f"was {given!r}; it is a section of labels")
            return {}
        seen: dict[str, str] = {}
        for label in cast("dict[Any, Any]", given):
            if not isinstance(label, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", label):
                self._problem(
                    (section, str(label)),
                    f"{label!r} is no label; it names a folder, so use letters, digits, '_', '-' and '.', not first, "
                    "and quote what YAML would take for a number or yes and no",
                )
            elif section == "methods" and label.lower() in RESERVED:
                self._problem((section, label), "is a name the study needs itself; rename it")
            elif seen.setdefault(label.lower(), label) != label:
                self._problem((section, label), f"and {seen[label.lower()]} are one folder on some systems; rename one")
        return cast("dict[str, Any]", given)

    def _seeds(self) -> tuple[int, ...]:
        seeds: Any = self.source.data.get("seeds", [0])
        whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in cast("list[Any]", seeds))
        if not whole or not seeds or len(set(seeds)) < len(seeds):
            self._problem(("seeds",), f"was {seeds!r}; it is a list of at least one seed, each once, such as [0, 1, 2]")
            return (0,)
        return tuple(cast("list[int]", seeds))

    def _base(self) -> Sections:
        given = self.source.data.get("base")
        if not isinstance(given, dict):
            self._problem(("base",), "missing section; it holds what every run shares: data, student, teacher, ...")
            return Sections()
        base = cast("dict[str, Any]", given)
        check_keys(self.source, ("base",), base, [*AGREED, *SHARED], self.problems)
        self._no_seed(base, ("base",))
        line = self.source.lines.get(("base",))
        return Sections().over(base, self.source, ("base",)).located(line, AGREED)

    def _teacher(self, name: str, given: object, base: Sections) -> Recipe | None:
        where = ("teachers", name)
        if not isinstance(given, dict):
            self._problem(where, f"was {given!r}; it is a section of {', '.join(OF_A_TEACHER)}")
            return None
        entry = cast("dict[str, Any]", given)
        self._agreed(entry, where)
        check_keys(self.source, where, {key: 0 for key in entry if key not in AGREED}, OF_A_TEACHER, self.problems)
        shared = base.only((*AGREED, "training"))
        known = {key: value for key, value in entry.items() if key in OF_A_TEACHER}
        return self._recipe(shared.over(known, self.source, where), where)

    def _method(self, label: str, given: object, base: Sections) -> Recipe | None:
        where = ("methods", label)
        entry = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        if "method" in entry:
            self._agreed(entry, where)
            self._no_seed(entry, where)
            known = {key: value for key, value in entry.items() if key not in AGREED}
            sections = base.over(known, self.source, where)
        elif "name" not in entry and any(key in (*AGREED, *SHARED) for key in entry):
            self._problem(where, "overrides sections but has no method; write `method: NAME` beside them")
            return None
        else:
            sections = base.method(given, self.source, where)
        sections, needs = self._references(sections, where)
        recipe = self._recipe(sections, where)
        if recipe is None:
            return None
        count = recipe.method.needs.teachers
        self.needs[label] = tuple(needs[key] for key in TEACHERS[:count] if key in needs)
        # A method without a teacher neither waits for one nor loads it.
        return replace(recipe, **dict.fromkeys(TEACHERS[count:]))

    def _agreed(self, entry: Mapping[str, Any], where: Keys) -> None:
        for key in AGREED:
            if key in entry:
                self._problem((*where, key), "all cells must agree on data and threat model; set it in base")

    def _no_seed(self, entry: Mapping[str, Any], where: Keys) -> None:
        training = entry.get("training")
        if isinstance(training, dict) and "seed" in training:
            self._problem((*where, "training", "seed"), "every method runs with the same seeds; list them under seeds")

    def _references(self, sections: Sections, where: Keys) -> tuple[Sections, dict[str, str]]:
        """Put folders in place of the names of this study's teachers."""
        data, needs = dict(sections.data), dict[str, str]()
        for key in TEACHERS:
            section = data.get(key)
            if section is None:
                continue
            name = named(section).get("name")
            if isinstance(name, str) and name in self.teachers:
                needs[key] = f"teachers/{name}"
                data[key] = named(section) | {"name": str(self.out / "teachers" / name)}
            elif close := self._mistyped(name):
                self._problem((*where, key), f"{name!r} is not among the teachers; did you mean {close}?")
        return Sections(data, sections.lines), needs

    def _mistyped(self, name: object) -> str | None:
        """Return the teacher that was meant by a name which is none, nor a model's, nor a path."""
        if not isinstance(name, str) or name in available_models() or found_at(name):
            return None
        return next(iter(nearest(name, self.teachers, most=1)), None)

    def _recipe(self, sections: Sections, where: Keys) -> Recipe | None:
        sections = sections.located(self.source.lines.get(where), ("method", *SHARED))
        try:
            return recipe_from_dict(sections.data, origin=self.source.path, lines=sections.lines)
        except InputError as error:
            self.problems += str(error).splitlines()
        return None


def _with_seed(recipe: Recipe | None, seed: int) -> Recipe:
    checked = cast("Recipe", recipe)
    return replace(checked, training=replace(checked.training, seed=seed))
