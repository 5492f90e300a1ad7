"""``kdiga study``: methods with the same teacher, student, data, attacks and seeds, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from kdiga.data import DataSet
from kdiga.errors import InputError, nearest
from kdiga.experiments.board import RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.experiment import TEACHERS, Experiment, run_facts
from kdiga.experiments.sections import EvaluateSettings, TuneSettings
from kdiga.experiments.specification import Sections, SpecificationReader, named
from kdiga.experiments.trials import best_trial, read_trials, trial_specs, with_seed
from kdiga.models import available_models
from kdiga.models.registry import found_at
from kdiga.recipes.schema import Recipe
from kdiga.recipes.source import STUDY, Keys, YamlSource, read_source
from kdiga.report.study import write_tables
from kdiga.results.shared import command_of
from kdiga.results.studies import StudyResult
from kdiga.runs.provenance import provenance
from kdiga.runs.run_folder import read_config

FILE = "study.json"
TOP = ("base", "teachers", "methods", "seeds", "evaluate", "tune")
AGREED = ("data", "threat")
SHARED = ("student", *TEACHERS, "training", "rounds")
OF_A_TEACHER = ("student", "method", "training")
RESERVED = ("teachers", "tuning", FILE, "cells.csv", "table.md", "scatter.png", "scatter.svg")


@dataclass(frozen=True)
class Study(Experiment):
    """A study, checked; ``given`` is the content of its file, overrides applied."""

    noun: ClassVar[str] = "cell"

    given: Mapping[str, Any]
    seeds: tuple[int, ...]
    tune: TuneSettings | None

    def of(self, kind: str) -> dict[str, list[RunSpec]]:
        """Return the runs of a kind by label."""
        found: dict[str, list[RunSpec]] = {}
        for run_spec in self.run_specs:
            if run_spec.kind == kind:
                found.setdefault(run_spec.label, []).append(run_spec)
        return found

    def write(self, board: RunBoard, data: DataSet, *, pictures: bool) -> dict[str, Any]:
        """Write ``study.json``, tables and pictures; return the first's content."""
        tuning = {label: _tuning(run_specs, board.out) for label, run_specs in self.of("trial").items()}
        content = self.about(board, data) | {
            "which": list(self.evaluation.which),
            "seeds": list(self.seeds),
            "teachers": [_entry(label, run_specs, board) for label, run_specs in self.of("teacher").items()],
            "methods": [
                _entry(label, run_specs, board) | {"tuning": tuning.get(label)}
                for label, run_specs in self.of("method").items()
            ],
            "study": dict(self.given),
            "provenance": provenance(),
        }
        StudyResult.model_validate(content).write(board.out / FILE, indent=2)
        write_tables(board.out, pictures=pictures)
        return content


def _entry(label: str, run_specs: Sequence[RunSpec], board: RunBoard) -> dict[str, Any]:
    saved = (read_config(board.out / run_spec.folder) for run_spec in run_specs)
    recipe = next((config for config in saved if config), None) or run_specs[0].recipe.to_dict()
    runs = [_run(run_spec, board) for run_spec in run_specs]
    return {"label": label, "method": run_specs[0].recipe.method.info.name, "recipe": recipe, "runs": runs}


def _run(run_spec: RunSpec, board: RunBoard) -> dict[str, Any]:
    found = ((which, read_json(test_file(board.out / run_spec.folder, which))) for which in run_spec.which)
    reports = {which: report for which, report in found if report}
    # Best and last weights may be the same. A report of an earlier version may have no fingerprint.
    attacked = {report.get("fingerprint", which): report["seconds"] for which, report in reports.items()}
    return run_facts(run_spec, board) | {
        "accuracy": {which: report["accuracy"] for which, report in reports.items()},
        "interval_95": {which: report["interval_95"] for which, report in reports.items()},
        "notes": {which: report["notes"] for which, report in reports.items() if report["notes"]},
        "attack_minutes": round(sum(sum(seconds.values()) for seconds in attacked.values()) / 60, 2),
    }


def _tuning(run_specs: Sequence[RunSpec], out: Path) -> dict[str, Any]:
    trials = read_trials(run_specs, out)
    best = None if any(trial.status == "open" for trial in trials) else best_trial(trials)
    chosen = best and {
        "folder": best.folder,
        "coefficients": best.coefficients,
        "robust": best.best and best.best["robust"],
    }
    return {
        "trials": [vars(trial) for trial in trials],
        "chosen": chosen,
        "minutes": round(sum(trial.minutes or 0.0 for trial in trials), 2),
    }


def load_study(path: str | Path, out: Path | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read a study from a path or a name; without ``out`` everything goes to ``runs/<file's stem>``.

    Raises:
        InputError: With every problem, each with its line.
    """
    folder = out or Path("runs") / Path(path).stem
    command = command_of("study", path, out=folder, set=list(overrides))
    return _StudyReader(read_source(path, overrides, STUDY), folder).study(command)


class _StudyReader(SpecificationReader):
    def __init__(self, source: YamlSource, out: Path) -> None:
        super().__init__(source)
        self.out = out
        self.teachers = self.labels(("teachers",))
        self.needs: dict[str, tuple[str, ...]] = {}  # folders of the teachers of a method, by its label

    def study(self, command: str) -> Study:
        source = self.source
        for section, kind, verb in (
            ("method", "a recipe of one run", "train"),
            ("students", "a test of claims", "claims"),
        ):
            if section in source.data and "base" not in source.data:
                raise InputError(f"{source.path!r} is {kind}, not a study; run it with `kdiga {verb}`.")
        self.check_keys((), source.data, TOP)
        evaluation = self.settings("evaluate", EvaluateSettings)
        tune = None if source.data.get("tune") is None else self.settings("tune", TuneSettings)
        seeds, base, methods = self.seeds(), self._base(), self.labels(("methods",), RESERVED)
        if not methods:
            self.problem(("methods",), "missing section; list at least one, for example `kd: kd`")
        self.check()
        teachers = {name: self._teacher(name, given, base) for name, given in self.teachers.items()}
        recipes = {label: self._method(label, given, base) for label, given in methods.items()}
        self.check()
        run_specs = [
            RunSpec(f"teachers/{name}", name, "teacher", cast("Recipe", recipe), which=evaluation.which)
            for name, recipe in teachers.items()
        ]
        run_specs += self._of_methods(cast("dict[str, Recipe]", recipes), seeds, evaluation.which, tune)
        self.check_folders(run_specs)
        self.check()
        title = Path(source.path).stem
        return Study(title, command, self.out, evaluation, tuple(run_specs), source.data, seeds, tune)

    def _of_methods(
        self, recipes: Mapping[str, Recipe], seeds: Sequence[int], which: tuple[str, ...], tune: TuneSettings | None
    ) -> list[RunSpec]:
        trials: dict[str, list[RunSpec]] = {}
        if tune is not None:
            for label, recipe in recipes.items():
                first = with_seed(recipe, seeds[0])
                trials[label] = trial_specs(first, f"tuning/{label}", tune, label=label, needs=self.needs[label])
        tried = {label: tuple(trial.folder for trial in group) for label, group in trials.items()}
        # Seed after seed, so that an unfinished study compares all methods on few seeds and not few methods on all.
        return [run_spec for group in trials.values() for run_spec in group] + [
            RunSpec(
                f"{label}/seed-{seed}",
                label,
                "method",
                with_seed(recipe, seed),
                self.needs[label],
                tried.get(label, ()),
                which,
            )
            for seed in seeds
            for label, recipe in recipes.items()
        ]

    def _base(self) -> Sections:
        where: Keys = ("base",)
        given = self.at(where)
        if not isinstance(given, dict):
            self.problem(where, "missing section; it holds what every run shares: data, student, teacher, ...")
            return Sections()
        base = cast("dict[str, Any]", given)
        self.check_keys(where, base, [*AGREED, *SHARED])
        self._no_seed(base, where)
        return Sections(places=dict.fromkeys(AGREED, (where,))).over(base, where)

    def _teacher(self, name: str, given: object, base: Sections) -> Recipe | None:
        where = ("teachers", name)
        if not isinstance(given, dict):
            self.problem(where, f"was {given!r}; it is a section of {', '.join(OF_A_TEACHER)}")
            return None
        entry = self._agreed(cast("dict[str, Any]", given), where)
        self.check_keys(where, entry, OF_A_TEACHER)
        known = {key: value for key, value in entry.items() if key in OF_A_TEACHER}
        return self.recipe(base.only((*AGREED, "training")).over(known, where), where)

    def _method(self, label: str, given: object, base: Sections) -> Recipe | None:
        where = ("methods", label)
        entry = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        if "method" in entry:
            self._no_seed(entry, where)
            sections = base.over(self._agreed(entry, where), where)
        elif "name" not in entry and any(key in (*AGREED, *SHARED) for key in entry):
            self.problem(where, "overrides sections but has no method; add `method: NAME`")
            return None
        else:
            sections = base.with_section("method", given, where)
        sections, needs = self._references(sections, where)
        recipe = self.recipe(sections, where)
        if recipe is None:
            return None
        count = recipe.method.needs.teachers
        self.needs[label] = tuple(needs[key] for key in TEACHERS[:count] if key in needs)
        # A method without a teacher neither waits for one nor loads it.
        return replace(recipe, **dict.fromkeys(TEACHERS[count:]))

    def _agreed(self, entry: Mapping[str, Any], where: Keys) -> dict[str, Any]:
        """Return an entry without the sections that all runs share, each of which is a problem."""
        for key in AGREED:
            if key in entry:
                self.problem((*where, key), "all cells must agree on data and threat model; set it in base")
        return {key: value for key, value in entry.items() if key not in AGREED}

    def _no_seed(self, entry: Mapping[str, Any], where: Keys) -> None:
        training = entry.get("training")
        if isinstance(training, dict) and "seed" in training:
            message = "every method runs with the same seeds; list them under seeds"
            self.problem((*where, "training", "seed"), message)

    def _references(self, sections: Sections, where: Keys) -> tuple[Sections, dict[str, str]]:
        """Put folders in place of the names of this study's teachers."""
        needs = dict[str, str]()
        for key in TEACHERS:
            section = sections.data.get(key)
            name = None if section is None else named(section).get("name")
            if isinstance(name, str) and name in self.teachers:
                needs[key] = f"teachers/{name}"
                sections = sections.with_section(key, named(section) | {"name": str(self.out / "teachers" / name)})
            elif isinstance(name, str) and name not in available_models() and not found_at(name):
                for close in nearest(name, self.teachers, most=1):
                    self.problem((*where, key), f"{name!r} is not among the teachers; did you mean {close}?")
        return sections, needs
