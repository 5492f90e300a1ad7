"""From a claims recipe to its grid and its runs: a recipe each, and what is measured of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError
from kdiga.experiments.board import CleanAccuracyFloor, RunSpec
from kdiga.experiments.claims.measurements import TeacherMeasurement
from kdiga.experiments.sections import (
    COSTLY,
    Certification,
    Coefficients,
    EvaluateSettings,
    Explaining,
    Pretrained,
    Rules,
    TuneSettings,
)
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


@dataclass(frozen=True)
class Pair:
    """Labels of a teacher and a student; a pre-trained student starts from weights that classify already."""

    teacher: str
    student: str
    pretrained: bool = False

    @property
    def name(self) -> str:
        """Name in folders and tables."""
        return f"{self.teacher}-to-{self.student}"


@dataclass(frozen=True)
class ClaimsGrid:
    """What is crossed, how it is measured, and the rules that decide.

    ``methods`` are names by label, ``judged`` the labels whose claims are tested, the paper's own first.
    """

    methods: Mapping[str, str]
    judged: tuple[str, ...]
    pairs: tuple[Pair, ...]
    seeds: tuple[int, ...]
    evaluation: EvaluateSettings
    tune: Coefficients | None
    certify: Certification
    explain: Explaining
    rules: Rules

    def label_of(self, method: str) -> str:
        """Return the label of a method that is not judged, such as kd."""
        return next(label for label, name in self.methods.items() if name == method)

    def pairs_of(self, *, pretrained: bool) -> list[Pair]:
        """Return the pairs with or without pre-trained students."""
        return [pair for pair in self.pairs if pair.pretrained == pretrained]

    def first_pairs(self, *, pretrained: bool) -> list[Pair]:
        """Return the first pair of each student."""
        found: dict[str, Pair] = {}
        for pair in self.pairs_of(pretrained=pretrained):
            found.setdefault(pair.student, pair)
        return list(found.values())

    @property
    def judged_first(self) -> list[str]:
        """All labels, the judged ones first."""
        return list(dict.fromkeys([*self.judged, *self.methods]))


class ClaimsReader(SpecificationReader):
    """Reads a claims recipe: its grid, and the runs of the grid in the folder ``out``."""

    def __init__(self, source: YamlSource, out: Path) -> None:
        super().__init__(source)
        self.out = out
        self.base = Sections().over({name: source.data[name] for name in SHARED if name in source.data}, ())
        self.pretrained = Pretrained()

    def grid(self) -> ClaimsGrid:
        """Return what the recipe crosses."""
        source = self.source
        if "base" in source.data or "method" in source.data:
            other = "study" if "base" in source.data else "train"
            raise InputError(f"{source.path!r} is not a claims recipe; run it with `kdiga {other}`.")
        self.check_keys((), source.data, TOP)
        evaluation, tune = self.settings("evaluate", EvaluateSettings), self.settings("tune", Coefficients)
        certify, explain = self.settings("certify", Certification), self.settings("explain", Explaining)
        rules = self.settings("rules", Rules)
        teachers, methods = self._labels(("teachers",)), self._labels(("methods",), RESERVED)
        pairs = self._pairs(teachers, self._labels(("students",)))
        if self.at(("pretrained",)) is not None:
            pairs += self._pretrained_pairs(teachers, methods)
        judged = self.names(("judged",), list(methods), "methods")
        seeds = self.seeds()
        self.check()
        self._check_evaluation(evaluation, explain)
        names = {label: _method_name(given) for label, given in methods.items()}
        for needed in ("ce", "kd"):
            if needed not in names.values():
                self.problem(("methods",), f"no label has the method {needed}, which claim a needs")
        search = self._search(tune, [pair for pair in pairs if not pair.pretrained]) if "tune" in source.data else None
        return ClaimsGrid(names, tuple(judged), tuple(pairs), seeds, evaluation, search, certify, explain, rules)

    def _labels(self, keys: Keys, reserved: tuple[str, ...] = ()) -> dict[str, Any]:
        found = self.labels(keys, reserved)
        if not found:
            self.problem(keys, "missing section; it lists at least one by a label")
        for label in found:
            if "-to-" in label:
                message = f"{label!r} is not a label; use letters, digits, '_', '-' and '.', not -to-"
                self.problem((*keys, label), message)
        return found

    def _pairs(self, teachers: dict[str, Any], students: dict[str, Any]) -> list[Pair]:
        """Return the pairs of the section ``pairs``; without one, every student learns from every teacher."""
        given = self.at(("pairs",))
        if given is None:
            return [Pair(teacher, student) for teacher in teachers for student in students]
        if not isinstance(given, dict) or not given:
            self.problem(("pairs",), f"was {given!r}; it is a section: TEACHER: [STUDENT, ...]")
            return []
        found = list[Pair]()
        for teacher in cast("dict[Any, Any]", given):
            if not isinstance(teacher, str) or teacher not in teachers:
                self.problem(("pairs", str(teacher)), f"{teacher!r} is not among teachers: {', '.join(teachers)}")
                continue
            found += [Pair(teacher, student) for student in self.names(("pairs", teacher), list(students), "students")]
        return found

    def _pretrained_pairs(self, teachers: dict[str, Any], methods: dict[str, Any]) -> list[Pair]:
        self.pretrained = self.settings("pretrained", Pretrained)
        students = self._labels(("pretrained", "students"))
        for label in students:
            if label in self.entries(("students",)):
                self.problem(("pretrained", "students", label), "is also among students")
        for label in self.pretrained.methods or ():
            if label not in methods:
                self.problem(("pretrained", "methods", label), "is not among methods")
        chosen = list(teachers)
        if self.pretrained.teachers is not None:
            chosen = self.names(("pretrained", "teachers"), chosen, "teachers")
        return [Pair(teacher, student, pretrained=True) for teacher in chosen for student in students]

    def _search(self, tune: Coefficients, pairs: list[Pair]) -> Coefficients | None:
        """Return the search with its pair filled in, which has to be one of the grid's."""
        if not pairs:
            return None
        chosen = replace(tune, teacher=tune.teacher or pairs[0].teacher, student=tune.student or pairs[0].student)
        if Pair(str(chosen.teacher), str(chosen.student)) not in pairs:
            known = ", ".join(pair.name for pair in pairs)
            self.problem(("tune",), f"{chosen.teacher}-to-{chosen.student} is not among the pairs: {known}")
        return chosen

    def _check_evaluation(self, evaluation: EvaluateSettings, explain: Explaining) -> None:
        if COSTLY not in evaluation.attacks or "clean" not in evaluation.attacks:
            raise InputError(
                f"evaluate.attacks was {', '.join(evaluation.attacks)}; a verdict rests on clean and autoattack."
            )
        if "which" in self.entries(("evaluate",)) and evaluation.which != WHICH:
            raise InputError(
                f"evaluate.which was {', '.join(evaluation.which)}; a verdict rests on the best weights by "
                "validation; leave it out."
            )
        attacked = evaluation.autoattack_examples or evaluation.examples
        if attacked is not None and attacked < explain.examples:
            raise InputError(
                f"explain.examples was {explain.examples} and AutoAttack sees {attacked} test images; the bounds are "
                "compared with it, so explain no more images than it sees."
            )

    # Runs

    def run_specs(self, grid: ClaimsGrid) -> list[RunSpec]:
        """Return all runs: those that others depend on, then seed after seed, its pre-trained students last."""
        run_specs = [*self._teachers(), *self._starts(grid)]
        for label in grid.judged:
            recipe = self._method(label, grid.pairs[0])
            if recipe is not None and not recipe.method.needs.teachers:
                self.problem(("judged",), f"{label} learns from no teacher, so no claim is about it")
        self.check()
        trials = self._trials(grid)
        for seed in grid.seeds:
            for pretrained in (False, True):
                if seed == grid.seeds[0]:
                    run_specs += [one for (_, kind), group in trials.items() if kind == pretrained for one in group]
                for label in grid.methods:
                    tried = tuple(run_spec.folder for run_spec in trials.get((label, pretrained), ()))
                    pairs = [pair for pair in self._pairs_of(label, grid) if pair.pretrained == pretrained]
                    run_specs += filter(None, (self._student(label, pair, seed, tried, grid) for pair in pairs))
        self.check_folders(run_specs)
        self.check()
        return run_specs

    def _teachers(self) -> Iterator[RunSpec]:
        for name, given in self.source.data["teachers"].items():
            where: Keys = ("teachers", name)
            trained = isinstance(given, dict) and "method" in given
            below = self.base if trained else self.base.with_section("method", "ce")
            recipe = self.recipe(self.laid_over(below, where, "method" if trained else "student", OF_A_TEACHER), where)
            if recipe is None:
                continue
            if not trained and recipe.student.is_fresh:
                message = "give its weights, or a student and a method to train it by"
                self.problem(where, f"has fresh weights, so it has nothing to teach; {message}")
            yield RunSpec(f"teachers/{name}", name, "teacher" if trained else "start", recipe, which=WHICH)

    def _starts(self, grid: ClaimsGrid) -> Iterator[RunSpec]:
        for pair in grid.first_pairs(pretrained=True):
            where: Keys = ("pretrained", "students", pair.student)
            recipe = self.recipe(self._student_sections(pair, self.base.with_section("method", "ce")), where)
            if recipe is None:
                continue
            if recipe.student.is_fresh:
                self.problem(where, "has fresh weights; a pre-trained student has others")
            recipe = with_seed(recipe, grid.seeds[0])
            yield RunSpec(f"starts/{pair.student}", pair.student, "start", recipe, which=WHICH, validated=True)

    def _student_sections(self, pair: Pair, below: Sections) -> Sections:
        above: Keys = ("pretrained",) if pair.pretrained else ()
        if pair.pretrained and self.pretrained.training is not None:
            below = below.over({"training": self.pretrained.training}, above)
        return self.laid_over(below, (*above, "students", pair.student), "student", OF_A_STUDENT)

    def _method(self, label: str, pair: Pair) -> Recipe | None:
        """Return the recipe of a method on a pair, for all seeds."""
        where: Keys = ("methods", label)
        if pair.pretrained and label in (self.pretrained.methods or {}):
            where = ("pretrained", *where)
        sections = self.laid_over(self._student_sections(pair, self.base), where, "method", OF_A_METHOD)
        # Every recipe names the pair's teacher; a method that needs none drops it.
        recipe = self.recipe(
            sections.with_section("teacher", {"name": str(self.out / "teachers" / pair.teacher)}, where), where
        )
        return recipe if recipe is None or recipe.method.needs.teachers else replace(recipe, teacher=None)

    def _trials(self, grid: ClaimsGrid) -> dict[tuple[str, bool], list[RunSpec]]:
        """Return the trials by method, and by whether the student is pre-trained."""
        found: dict[tuple[str, bool], list[RunSpec]] = {}
        tune, special = grid.tune, self.pretrained
        if tune is None:
            return found
        reference = Pair(str(tune.teacher), str(tune.student))
        for label in grid.methods:
            for pair in (reference, *grid.first_pairs(pretrained=True)[:1]):
                recipe = self._method(label, pair)
                if recipe is None or (pair.pretrained and recipe.method.info.name == "ce"):
                    continue
                where, budget = f"tuning/{label}", TuneSettings(tune.trials, tune.epochs)
                if pair.pretrained:  # alike for all methods, too
                    where += f"-{pair.student}"
                    budget = TuneSettings(special.tune_trials or tune.trials, special.tune_epochs)
                recipe = with_seed(recipe, grid.seeds[0])
                needs = _needs(recipe, pair)
                found[label, pair.pretrained] = trial_specs(recipe, where, budget, label=label, needs=needs)
        return found

    def _student(self, label: str, pair: Pair, seed: int, tried: tuple[str, ...], grid: ClaimsGrid) -> RunSpec | None:
        recipe, floor, after = self._method(label, pair), None, ()
        if recipe is None:
            return None
        if pair.pretrained and tried:
            floor = CleanAccuracyFloor(f"starts/{pair.student}", self.pretrained.at_most)
        if seed == grid.seeds[0] and not pair.pretrained and grid.methods[label] != "ce":
            # One that is trained without a teacher is compared with its first; plain training is not.
            teacher, of_attacks = f"teachers/{pair.teacher}", grid.evaluation.seed
            after = (
                TeacherMeasurement(teacher, grid.explain, of_attacks),
                TeacherMeasurement(teacher, grid.certify, of_attacks),
            )
        return RunSpec(
            f"{label}/{pair.name if recipe.teacher else pair.student}/seed-{seed}",
            label,
            "method",
            with_seed(recipe, seed),
            _needs(recipe, pair),
            tried,
            WHICH,
            floor=floor,
            after=after,
        )

    def _pairs_of(self, label: str, grid: ClaimsGrid) -> list[Pair]:
        """Return the pairs that a method is run on: one a student where it needs no teacher; ce only on fresh ones."""
        recipe = self._method(label, grid.pairs[0])
        if recipe is None:
            return []
        if recipe.method.needs.teachers:
            return list(grid.pairs)
        plain = recipe.method.info.name == "ce"
        return grid.first_pairs(pretrained=False) + ([] if plain else grid.first_pairs(pretrained=True))


def _method_name(given: object) -> str:
    inner = cast("dict[str, Any]", given)["method"] if isinstance(given, dict) and "method" in given else given
    return str(cast("dict[str, Any]", inner).get("name") if isinstance(inner, dict) else inner)


def _needs(recipe: Recipe, pair: Pair) -> tuple[str, ...]:
    return (f"teachers/{pair.teacher}",) if recipe.teacher else ()
