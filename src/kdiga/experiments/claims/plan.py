"""From a claims recipe to its grid and its runs: a recipe each, and what is measured of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError
from kdiga.experiments.board import CleanAccuracyFloor, PostRunMeasurement, RunSpec
from kdiga.experiments.claims.grid import (
    Certification,
    ClaimsGrid,
    Coefficients,
    Explaining,
    Pair,
    Pretrained,
    Rules,
)
from kdiga.experiments.claims.measurements import CertifyMeasurement, ExplainMeasurement
from kdiga.experiments.settings import COSTLY, EvaluateSettings, TuneSettings
from kdiga.experiments.specification import Sections, SpecificationReader
from kdiga.experiments.trials import trial_specs, with_seed
from kdiga.recipes.schema import Recipe
from kdiga.recipes.source import Keys, YamlSource

SHARED = ("data", "threat", "training")
SETTINGS = ("evaluate", "tune", "certify", "explain", "rules")
TOP = (*SHARED, "teachers", "students", "pairs", "pretrained", "methods", "judged", "seeds", *SETTINGS)
RESERVED = ("teachers", "starts", "tuning", "claims.json", "claims.md")
OF_A_METHOD, OF_A_STUDENT, OF_A_TEACHER = (
    ("method", "training"),
    ("student", "training"),
    ("student", "method", "training"),
)
WHICH = ("best",)


def read_grid(reader: SpecificationReader) -> ClaimsGrid:
    """Return what a recipe crosses; problems of its labels and sections are noted in the reader.

    Raises:
        InputError: With every problem, each with its line.
    """
    source = reader.source
    if "base" in source.data or "method" in source.data:
        other = "study" if "base" in source.data else "train"
        raise InputError(f"{source.path!r} is not a claims recipe; run it with `kdiga {other}`.")
    reader.check_keys((), source.data, TOP)
    evaluation = reader.settings("evaluate", EvaluateSettings) or EvaluateSettings()
    tune = reader.settings("tune", Coefficients) or Coefficients()
    certify = reader.settings("certify", Certification) or Certification()
    explain = reader.settings("explain", Explaining) or Explaining()
    rules = reader.settings("rules", Rules) or Rules()
    teachers, methods = _labels(reader, ("teachers",)), _labels(reader, ("methods",), RESERVED)
    pairs = _pairs(reader, teachers, _labels(reader, ("students",)))
    if reader.at(("pretrained",)) is not None:
        pairs += _pretrained_pairs(reader, teachers, methods)
    judged = reader.names(("judged",), list(methods), "methods")
    seeds = reader.seeds()
    reader.check()
    _check_evaluation(source, evaluation, explain)
    names = {label: _method_name(given) for label, given in methods.items()}
    for needed in ("ce", "kd"):
        if needed not in names.values():
            reader.problem(("methods",), f"no label has the method {needed}, which claim a needs")
    search = _search(reader, tune, [pair for pair in pairs if not pair.pretrained]) if "tune" in source.data else None
    return ClaimsGrid(names, tuple(judged), tuple(pairs), seeds, evaluation, search, certify, explain, rules)


def _labels(reader: SpecificationReader, keys: Keys, reserved: tuple[str, ...] = ()) -> dict[str, Any]:
    found = reader.labels(keys, reserved)
    if not found:
        reader.problem(keys, "missing section; it lists at least one by a label")
    for label in found:
        if "-to-" in label:
            reader.problem((*keys, label), f"{label!r} is not a label; use letters, digits, '_', '-' and '.', not -to-")
    return found


def _pairs(reader: SpecificationReader, teachers: dict[str, Any], students: dict[str, Any]) -> list[Pair]:
    """Return the pairs of the section ``pairs``; without one, every student learns from every teacher."""
    given = reader.at(("pairs",))
    if given is None:
        return [Pair(teacher, student) for teacher in teachers for student in students]
    if not isinstance(given, dict) or not given:
        reader.problem(("pairs",), f"was {given!r}; it is a section: TEACHER: [STUDENT, ...]")
        return []
    found = list[Pair]()
    for teacher in cast("dict[Any, Any]", given):
        if not isinstance(teacher, str) or teacher not in teachers:
            reader.problem(("pairs", str(teacher)), f"{teacher!r} is not among teachers: {', '.join(teachers)}")
            continue
        found += [Pair(teacher, student) for student in reader.names(("pairs", teacher), list(students), "students")]
    return found


def _pretrained_pairs(reader: SpecificationReader, teachers: dict[str, Any], methods: dict[str, Any]) -> list[Pair]:
    section = reader.settings("pretrained", Pretrained)
    students = _labels(reader, ("pretrained", "students"))
    for label in students:
        if label in reader.entries(("students",)):
            reader.problem(("pretrained", "students", label), "stands among students, too")
    if section is None:
        return []
    for label in section.methods or ():
        if label not in methods:
            reader.problem(("pretrained", "methods", label), "is not among methods")
    chosen = list(teachers)
    if section.teachers is not None:
        chosen = reader.names(("pretrained", "teachers"), chosen, "teachers")
    return [Pair(teacher, student, pretrained=True) for teacher in chosen for student in students]


def _method_name(given: object) -> str:
    inner = cast("dict[str, Any]", given)["method"] if isinstance(given, dict) and "method" in given else given
    return str(cast("dict[str, Any]", inner).get("name") if isinstance(inner, dict) else inner)


def _search(reader: SpecificationReader, tune: Coefficients, pairs: list[Pair]) -> Coefficients | None:
    """Return the search with its pair filled in, which has to be one of the grid's."""
    if not pairs:
        return None
    chosen = replace(tune, teacher=tune.teacher or pairs[0].teacher, student=tune.student or pairs[0].student)
    if Pair(str(chosen.teacher), str(chosen.student)) not in pairs:
        known = ", ".join(pair.name for pair in pairs)
        reader.problem(("tune",), f"{chosen.teacher}-to-{chosen.student} is not among the pairs: {known}")
    return chosen


def _check_evaluation(source: YamlSource, evaluation: EvaluateSettings, explain: Explaining) -> None:
    if COSTLY not in evaluation.attacks or "clean" not in evaluation.attacks:
        raise InputError(
            f"evaluate.attacks was {', '.join(evaluation.attacks)}; a verdict rests on clean and autoattack."
        )
    if "which" in (source.data.get("evaluate") or {}) and evaluation.which != WHICH:
        raise InputError(
            f"evaluate.which was {', '.join(evaluation.which)}; a verdict rests on the best weights by validation; "
            "leave it out."
        )
    attacked = evaluation.autoattack_examples or evaluation.examples
    if attacked is not None and attacked < explain.examples:
        raise InputError(
            f"explain.examples was {explain.examples} and AutoAttack sees {attacked} test images; the bounds are "
            "compared with it, so explain no more images than it sees."
        )


class RunLayout:
    """Lays out the runs of a grid.

    Args:
        reader: Reader of the recipe, in which problems are noted.
        grid: What is crossed.
        out: Folder for everything.
    """

    def __init__(self, reader: SpecificationReader, grid: ClaimsGrid, out: Path) -> None:
        self.reader, self.source, self.grid, self.out = reader, reader.source, grid, out
        shared = {name: self.source.data[name] for name in SHARED if name in self.source.data}
        self.base = Sections().over(shared, self.source, ())
        self.pretrained: dict[str, Any] = self.source.data.get("pretrained") or {}

    def run_specs(self) -> list[RunSpec]:
        """Return all runs: those that others depend on, then seed after seed, its pre-trained students last.

        Raises:
            InputError: With every problem of their recipes.
        """
        run_specs = [*self._teachers(), *self._starts()]
        for label in self.grid.judged:
            recipe = self._method_recipe(label, self.grid.pairs[0])
            if recipe is not None and not recipe.method.needs.teachers:
                self.reader.problem(("judged",), f"{label} learns from no teacher, so no claim is about it")
        self.reader.check()
        trials = self._trials()
        for seed in self.grid.seeds:
            for pretrained in (False, True):
                if seed == self.grid.seeds[0]:
                    run_specs += [one for (_, kind), group in trials.items() if kind == pretrained for one in group]
                for label in self.grid.methods:
                    tried = trials.get((label, pretrained), [])
                    run_specs += self._students(label, seed, tried, pretrained=pretrained)
        self.reader.check_folders(run_specs)
        self.reader.check()
        return run_specs

    def _teachers(self) -> Iterator[RunSpec]:
        for name, given in self.source.data["teachers"].items():
            where: Keys = ("teachers", name)
            trained = isinstance(given, dict) and "method" in given
            if trained:
                entry = cast("dict[str, Any]", given)
                self.reader.check_keys(where, entry, OF_A_TEACHER)
                sections = self.base.over(entry, self.source, where)
            else:
                plain = Sections(self.base.data | {"method": "ce"}, self.base.lines)
                sections = plain.with_section("student", given, self.source, where)
            recipe = self.reader.recipe(sections, where)
            if recipe is None:
                continue
            if not trained and recipe.student.is_fresh:
                message = (
                    "has fresh weights, so it has nothing to teach; give its weights, or a student and a method to "
                )
                self.reader.problem(where, message + "train it by")
            yield RunSpec(f"teachers/{name}", name, "teacher" if trained else "start", recipe, which=WHICH)

    def _starts(self) -> Iterator[RunSpec]:
        for pair in self.grid.first_pairs(pretrained=True):
            where: Keys = ("pretrained", "students", pair.student)
            plain = Sections(self.base.data | {"method": "ce"})
            recipe = self.reader.recipe(self._student_sections(pair, plain), where)
            if recipe is None:
                continue
            if recipe.student.is_fresh:
                self.reader.problem(where, "has fresh weights; a pre-trained student has others")
            recipe = with_seed(recipe, self.grid.seeds[0])
            yield RunSpec(f"starts/{pair.student}", pair.student, "start", recipe, which=WHICH, validated=True)

    def _student_sections(self, pair: Pair, sections: Sections) -> Sections:
        above: Keys = ("pretrained",) if pair.pretrained else ()
        section = self.pretrained if pair.pretrained else self.source.data
        if pair.pretrained and "training" in section:
            sections = sections.over({"training": section["training"]}, self.source, above)
        where: Keys = (*above, "students", pair.student)
        given = section["students"][pair.student]
        if isinstance(given, dict) and "student" in given:
            entry = cast("dict[str, Any]", given)
            self.reader.check_keys(where, entry, OF_A_STUDENT)
            return sections.over(entry, self.source, where)
        return Sections(sections.data | {"student": given}, sections.lines)

    def _method_recipe(self, label: str, pair: Pair) -> Recipe | None:
        where: Keys = ("methods", label)
        sections = self._student_sections(pair, self.base)
        given = self.source.data["methods"][label]
        special = self.pretrained.get("methods") or {}
        if pair.pretrained and label in special:
            where, given = ("pretrained", *where), special[label]
        if isinstance(given, dict) and "method" in given:
            entry = cast("dict[str, Any]", given)
            self.reader.check_keys(where, entry, OF_A_METHOD)
            sections = sections.over(entry, self.source, where)
        else:
            sections = sections.with_section("method", given, self.source, where)
        # Every recipe names the pair's teacher; a method that needs none drops it.
        sections.data["teacher"] = {"name": str(self.out / "teachers" / pair.teacher)}
        recipe = self.reader.recipe(sections, where)
        if recipe is None or recipe.method.needs.teachers:
            return recipe
        return replace(recipe, teacher=None)

    def _trials(self) -> dict[tuple[str, bool], list[RunSpec]]:
        """Return the trials by method, and by whether the student is pre-trained."""
        found: dict[tuple[str, bool], list[RunSpec]] = {}
        tune = self.grid.tune
        if tune is None:
            return found
        reference = Pair(str(tune.teacher), str(tune.student))
        for label in self.grid.methods:
            for pair in (reference, *self.grid.first_pairs(pretrained=True)[:1]):
                recipe = self._method_recipe(label, pair)
                if recipe is None or (pair.pretrained and recipe.method.info.name == "ce"):
                    continue
                where, budget = f"tuning/{label}", TuneSettings(tune.trials, tune.epochs)
                if pair.pretrained:  # alike for all methods, too
                    where += f"-{pair.student}"
                    trials = self.pretrained.get("tune_trials", tune.trials)
                    budget = TuneSettings(trials, self.pretrained.get("tune_epochs"))
                recipe = with_seed(recipe, self.grid.seeds[0])
                needs = _needs(recipe, pair)
                found[label, pair.pretrained] = trial_specs(recipe, where, budget, label=label, needs=needs)
        return found

    def _students(self, label: str, seed: int, trials: list[RunSpec], *, pretrained: bool) -> Iterator[RunSpec]:
        """Yield the runs of a method with one seed."""
        tried = tuple(run_spec.folder for run_spec in trials)
        for pair in self._pairs_of(label):
            if pair.pretrained != pretrained or (recipe := self._method_recipe(label, pair)) is None:
                continue
            floor = None
            if pair.pretrained and tried:
                floor = CleanAccuracyFloor(f"starts/{pair.student}", float(self.pretrained.get("at_most", 1.0)))
            yield RunSpec(
                f"{label}/{pair.name if recipe.teacher else pair.student}/seed-{seed}",
                label,
                "method",
                with_seed(recipe, seed),
                _needs(recipe, pair),
                tried,
                WHICH,
                floor=floor,
                after=self._measurements(label, pair) if seed == self.grid.seeds[0] else (),
            )

    def _pairs_of(self, label: str) -> list[Pair]:
        """Return the pairs that a method is run on: one a student where it needs no teacher; ce only on fresh ones."""
        recipe = self._method_recipe(label, self.grid.pairs[0])
        if recipe is None:
            return []
        if recipe.method.needs.teachers:
            return list(self.grid.pairs)
        plain = recipe.method.info.name == "ce"
        return self.grid.first_pairs(pretrained=False) + ([] if plain else self.grid.first_pairs(pretrained=True))

    def _measurements(self, label: str, pair: Pair) -> tuple[PostRunMeasurement, ...]:
        """Return what is measured of a student of the first seed: its bounds and radii against the pair's teacher.

        One that was trained without a teacher is compared with its first; plain training is not.
        """
        if pair.pretrained or self.grid.methods[label] == "ce":
            return ()
        teacher, seed = f"teachers/{pair.teacher}", self.grid.evaluation.seed
        return (
            ExplainMeasurement(teacher, self.grid.explain, seed),
            CertifyMeasurement(teacher, self.grid.certify, seed),
        )


def _needs(recipe: Recipe, pair: Pair) -> tuple[str, ...]:
    return (f"teachers/{pair.teacher}",) if recipe.teacher else ()
