"""The runs of a claims recipe: a recipe each, put together from its sections, and what is found out of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError
from kdiga.experiments.board import CleanAccuracyFloor, PostRunMeasurement, RunSpec
from kdiga.experiments.claims.grid import Grid, Pair
from kdiga.experiments.claims.measurements import CertifyMeasurement, ExplainMeasurement
from kdiga.experiments.claims.settings import Certification, Coefficients, Explaining
from kdiga.experiments.sections import Sections
from kdiga.experiments.settings import EvaluateSettings, TuneSettings, check_keys
from kdiga.experiments.trials import trial_specs
from kdiga.recipes.load import recipe_from_dict
from kdiga.recipes.schema import Recipe
from kdiga.recipes.source import Keys, YamlSource

SHARED = ("data", "threat", "training")
OF_A_METHOD = ["method", "training"]
OF_A_STUDENT = ["student", "training"]
OF_A_TEACHER = ["student", "method", "training"]
WHICH = ("best",)


class Layout:
    """Lays out the cells.

    Args:
        source: the recipe.
        out: folder for everything.
        grid: what is crossed.
        evaluation: how every model is attacked.
        tune: the search for coefficients, or None.
        problems: found so far; more are added.
    """

    def __init__(
        self,
        source: YamlSource,
        out: Path,
        grid: Grid,
        evaluation: EvaluateSettings,
        tune: Coefficients | None,
        problems: list[str],
    ) -> None:
        self.source, self.out, self.grid, self.evaluation, self.problems = source, out, grid, evaluation, problems
        shared = {name: source.data[name] for name in SHARED if name in source.data}
        self.base = Sections().over(shared, source, ())
        self.methods = {label: self._method_name(label) for label in source.data["methods"]}
        problems += [
            source.problem(("methods",), f"no label has the method {needed}, which claim a needs")
            for needed in ("ce", "kd")
            if needed not in self.methods.values()
        ]
        self.tune = self._search(tune)

    def run_specs(self, certify: Certification, explain: Explaining) -> list[RunSpec]:
        """Return all cells: what others rest on, then seed after seed, its pre-trained students after the others."""
        run_specs = [*self._teachers(), *self._starts()]
        self._check_judged()
        if self.problems:
            return run_specs
        trials = self._trials()
        for seed in self.grid.seeds:
            first = seed == self.grid.seeds[0]
            for pretrained in (False, True):
                if first:
                    run_specs += [
                        run_spec for (_, kind), group in trials.items() if kind == pretrained for run_spec in group
                    ]
                run_specs += [
                    self._student(
                        recipe, label, pair, seed, trials, self._steps(label, pair, certify, explain) if first else ()
                    )
                    for label in self.methods
                    for pair in self._pairs_of(label)
                    # Where there is none there is a problem, and no cell will be run.
                    if pair.pretrained == pretrained and (recipe := self._method_recipe(label, pair)) is not None
                ]
        return run_specs

    # Recipes

    def _teachers(self) -> Iterator[RunSpec]:
        for name, given in self.source.data["teachers"].items():
            where: Keys = ("teachers", name)
            trained = isinstance(given, dict) and "method" in given
            if trained:
                entry = cast("dict[str, Any]", given)
                check_keys(self.source, where, entry, OF_A_TEACHER, self.problems)
                sections = self.base.over(entry, self.source, where)
            else:
                sections = self._as_it_is(given, where)
            recipe = self._recipe(sections, where)
            if recipe is None:
                continue
            if not trained and recipe.student.is_fresh:
                self.problems.append(
                    self.source.problem(
                        where,
                        "has fresh weights, so it has nothing to teach; give its weights, or a "
                        "student and a method to train it by",
                    )
                )
            yield RunSpec(f"teachers/{name}", name, "teacher" if trained else "start", recipe, which=WHICH)

    def _starts(self) -> Iterator[RunSpec]:
        for pair in self._firsts(pretrained=True):
            where: Keys = ("pretrained", "students", pair.student)
            recipe = self._recipe(self._student_sections(pair, Sections(self.base.data | {"method": "ce"})), where)
            if recipe is None:
                continue
            if recipe.student.is_fresh:
                self.problems.append(self.source.problem(where, "has fresh weights; a pre-trained student has others"))
            recipe = _with_seed(recipe, self.grid.seeds[0])
            yield RunSpec(f"starts/{pair.student}", pair.student, "start", recipe, which=WHICH, validated=True)

    def _as_it_is(self, given: object, where: Keys) -> Sections:
        lines = {("student", *keys[2:]): line for keys, line in self.source.lines.items() if keys[:2] == where}
        return Sections(self.base.data | {"student": given, "method": "ce"}, {**self.base.lines, **lines})

    def _student_sections(self, pair: Pair, sections: Sections) -> Sections:
        above: Keys = ("pretrained",) if pair.pretrained else ()
        section = self.source.data["pretrained"] if pair.pretrained else self.source.data
        if pair.pretrained and "training" in section:
            sections = sections.over({"training": section["training"]}, self.source, above)
        where: Keys = (*above, "students", pair.student)
        given = section["students"][pair.student]
        if isinstance(given, dict) and "student" in given:
            entry = cast("dict[str, Any]", given)
            check_keys(self.source, where, entry, OF_A_STUDENT, self.problems)
            return sections.over(entry, self.source, where)
        return Sections(sections.data | {"student": given}, sections.lines)

    def _method_recipe(self, label: str, pair: Pair) -> Recipe | None:
        where: Keys = ("methods", label)
        sections = self._student_sections(pair, self.base)
        given = self.source.data["methods"][label]
        special = (self.source.data.get("pretrained") or {}).get("methods") or {}
        if pair.pretrained and label in special:
            where, given = ("pretrained", *where), special[label]
        if isinstance(given, dict) and "method" in given:
            entry = cast("dict[str, Any]", given)
            check_keys(self.source, where, entry, OF_A_METHOD, self.problems)
            sections = sections.over(entry, self.source, where)
        else:
            sections = sections.method(given, self.source, where)
        # A teacher of its own name, whether it is needed or not; a method without one drops it.
        sections.data["teacher"] = {"name": str(self.out / "teachers" / pair.teacher)}
        recipe = self._recipe(sections, where)
        if recipe is None or recipe.method.needs.teachers:
            return recipe
        return replace(recipe, teacher=None)

    def _recipe(self, sections: Sections, where: Keys) -> Recipe | None:
        sections = sections.located(self.source.lines.get(where), ("method", "student", "teacher"))
        try:
            return recipe_from_dict(sections.data, origin=self.source.path, lines=sections.lines)
        except InputError as error:
            self.problems += str(error).splitlines()
        return None

    def _method_name(self, label: str) -> str:
        given = self.source.data["methods"][label]
        inner = given["method"] if isinstance(given, dict) and "method" in given else given
        return str(cast("dict[str, Any]", inner).get("name") if isinstance(inner, dict) else inner)

    # Runs

    def _firsts(self, *, pretrained: bool) -> list[Pair]:
        """Return the first pair of each student."""
        found: dict[str, Pair] = {}
        for pair in self.grid.pairs:
            if pair.pretrained == pretrained:
                found.setdefault(pair.student, pair)
        return list(found.values())

    def _pairs_of(self, label: str) -> list[Pair]:
        """Return the pairs that a method is run on: one a student where it needs no teacher; ce keeps to fresh ones."""
        recipe = self._method_recipe(label, self.grid.pairs[0])
        if recipe is None:
            return []
        if recipe.method.needs.teachers:
            return list(self.grid.pairs)
        plain = recipe.method.info.name == "ce"
        return self._firsts(pretrained=False) + ([] if plain else self._firsts(pretrained=True))

    def _trials(self) -> dict[tuple[str, bool], list[RunSpec]]:
        """Return the trials by method, and by whether the student is pre-trained."""
        found: dict[tuple[str, bool], list[RunSpec]] = {}
        if self.tune is None:
            return found
        reference = Pair(str(self.tune.teacher), str(self.tune.student))
        starts = self._firsts(pretrained=True)[:1]
        for label in self.methods:
            for pair in (reference, *starts):
                recipe = self._method_recipe(label, pair)
                if recipe is None or (pair.pretrained and recipe.method.info.name == "ce"):
                    continue
                where = f"tuning/{label}" + (f"-{pair.student}" if pair.pretrained else "")
                trials, epochs = self._budget(pair, self.tune)
                found[label, pair.pretrained] = trial_specs(
                    _with_seed(recipe, self.grid.seeds[0]),
                    where,
                    label=label,
                    trials=trials,
                    epochs=epochs,
                    needs=_needs(recipe, pair),
                )
        return found

    def _budget(self, pair: Pair, tune: Coefficients) -> tuple[int, int | None]:
        """Return trials and epochs of a search; a pre-trained student's may differ, alike for all methods."""
        if not pair.pretrained:
            return tune.trials, tune.epochs
        section = self.source.data["pretrained"]
        own = TuneSettings(section.get("tune_trials", tune.trials), section.get("tune_epochs"))
        return own.trials, own.epochs

    def _student(
        self,
        recipe: Recipe,
        label: str,
        pair: Pair,
        seed: int,
        trials: Mapping[tuple[str, bool], list[RunSpec]],
        steps: tuple[PostRunMeasurement, ...],
    ) -> RunSpec:
        name = pair.name if recipe.teacher else pair.student
        tried = tuple(run_spec.folder for run_spec in trials.get((label, pair.pretrained), ()))
        lost = (self.source.data.get("pretrained") or {}).get("at_most", 1.0)
        floor = CleanAccuracyFloor(f"starts/{pair.student}", float(lost)) if pair.pretrained and tried else None
        return RunSpec(
            f"{label}/{name}/seed-{seed}",
            label,
            "method",
            _with_seed(recipe, seed),
            _needs(recipe, pair),
            tried,
            WHICH,
            floor=floor,
            after=steps,
        )

    def _steps(
        self, label: str, pair: Pair, certify: Certification, explain: Explaining
    ) -> tuple[PostRunMeasurement, ...]:
        """Return what is found out of a student of the first seed: its bounds and radii against the pair's teacher.

        One that was trained without a teacher stands beside the others against its first; plain training does not.
        """
        if pair.pretrained or self.methods[label] == "ce":
            return ()
        teacher, seed = f"teachers/{pair.teacher}", self.evaluation.seed
        return ExplainMeasurement(teacher, explain, seed), CertifyMeasurement(teacher, certify, seed)

    def _check_judged(self) -> None:
        for label in self.grid.judged:
            recipe = self._method_recipe(label, self.grid.pairs[0])
            if recipe is not None and not recipe.method.needs.teachers:
                self.problems.append(
                    self.source.problem(("judged",), f"{label} learns from no teacher, so no claim is about it")
                )

    def _search(self, tune: Coefficients | None) -> Coefficients | None:
        """Return the search with its pair filled in, which has to be one of the grid's."""
        pairs = [pair for pair in self.grid.pairs if not pair.pretrained]
        if tune is None or not pairs:
            return None
        chosen = replace(tune, teacher=tune.teacher or pairs[0].teacher, student=tune.student or pairs[0].student)
        if Pair(str(chosen.teacher), str(chosen.student)) not in pairs:
            known = ", ".join(pair.name for pair in pairs)
            self.problems.append(
                self.source.problem(("tune",), f"{chosen.teacher}-to-{chosen.student} is not among the pairs: {known}")
            )
        return chosen


def _needs(recipe: Recipe, pair: Pair) -> tuple[str, ...]:
    return (f"teachers/{pair.teacher}",) if recipe.teacher else ()


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, training=replace(recipe.training, seed=seed))
