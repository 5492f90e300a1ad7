"""``kdiga curve``: robust against clean accuracy from a pre-trained start, over a coefficient or between weights.

Validation images decide which point answers: the most robust of those that lose at most so much clean accuracy. Test
images, which take no part in the choice, say what it gained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.experiments.board import VALIDATION, Kind, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.experiment import Experiment, run_facts
from kdiga.experiments.run_one import attack_run, validation_attack
from kdiga.experiments.sections import EvaluateSettings
from kdiga.experiments.trials import with_seed
from kdiga.io.file_lock import file_lock
from kdiga.recipes.schema import Recipe
from kdiga.recipes.validate import load_recipe
from kdiga.report.curve import write_curve_files
from kdiga.results.studies import CurveResult
from kdiga.runs.provenance import provenance
from kdiga.runs.run_folder import RESULT, write_json
from kdiga.statistics import at_most, paired_difference
from kdiga.types import parse_number

FILE, CONFIRMED = "curve.json", "best-confirmed.json"
START = "start"  # folder of the runs of the untouched student
INTERPOLATION = "interpolation"  # the key of a curve between the weights before and after one training
FORM = (
    "write it as method.KEY=VALUE,VALUE,..., for example method.gradient_weight=0,0.3,1,3, or as "
    "interpolation=0.25,0.5,0.75"
)
RUN_FACTS = ("folder", "seed", "status", "error", "best_epoch", "minutes", "date", "hardware")


@dataclass(frozen=True)
class Curve(Experiment):
    """A curve of robust against clean accuracy over ``key``, checked."""

    key: str  # name of the coefficient, without "method.", or "interpolation"
    values: tuple[float, ...]  # its values, rising
    seeds: tuple[int, ...]  # seeds of every value
    recipe: Recipe  # recipe that varies
    at_most: float  # largest loss of validation clean accuracy of the answer, percentage points
    confirmation: EvaluateSettings | None  # costly attack on two points, or None

    def check(self, board: RunBoard, data: DataSet, *, look_only: bool) -> None:
        """Check the folder, and that interpolated weights are between the start and the trained ones that are there."""
        super().check(board, data, look_only=look_only)
        for run_spec in self.run_specs:
            made = (read_json(self.out / run_spec.folder / RESULT) or {}).get("interpolated")
            if made is None:
                continue
            results = [read_json(self.out / end / RESULT) or {} for end in run_spec.needs]
            if made["ends"] != [result.get("fingerprints", {}).get("best") for result in results]:
                raise InputError(
                    f"{run_spec.folder} in {str(self.out)!r} lies between other weights than those of "
                    f"{' and '.join(run_spec.needs)}; delete {str(self.out / run_spec.folder)!r}, and it is made again."
                )

    def write(self, board: RunBoard, data: DataSet, *, pictures: bool) -> dict[str, Any]:
        """Write ``curve.json``, table and pictures; return the first's content."""
        content = (
            {"kind": "curve"}
            | self.about(board, data)
            | {
                "key": self.key,
                "method": self.recipe.method.info.name,
                "student": self.recipe.student.name,
                "validation_attack": validation_attack(self.recipe),
                "seeds": list(self.seeds),
                "at_most": self.at_most,
                "start": {"runs": self._runs(None, board, data)},
                "points": [{"value": value, "runs": self._runs(value, board, data)} for value in self.values],
                "recipe": self.recipe.to_dict(),
                "provenance": provenance(),
            }
        )
        content["answer"] = answer(content, settled=board.all_ended)
        curve = CurveResult.model_validate(content)
        curve.write(board.out / FILE, indent=2)
        write_curve_files(board.out, curve, pictures=pictures)
        return content

    def finish(self, board: RunBoard, data: DataSet, content: dict[str, Any]) -> dict[str, Any]:
        """Attack the starts and the chosen runs once more, at greater cost."""
        if self.confirmation is None or not content["answer"]["settled"]:
            return content
        chosen = (None, content["answer"]["value"])
        for run_spec in self.run_specs:
            if run_spec.folder in {_folder(self.key, value, seed) for value in chosen for seed in self.seeds}:
                self._confirm(run_spec, self.confirmation, data)
        return self.report(board, data)

    def _confirm(self, run_spec: RunSpec, settings: EvaluateSettings, data: DataSet) -> None:
        folder = self.out / run_spec.folder
        with file_lock(self.out, f"{run_spec.folder}-confirmed", wait=True):
            if not _confirms(read_json(folder / CONFIRMED), settings, data):
                write_json(folder / CONFIRMED, attack_run(folder, run_spec.recipe, "best", data, settings))

    def _runs(self, value: float | None, board: RunBoard, data: DataSet) -> list[dict[str, Any]]:
        """Return what the result file says of a value's runs, or of the start's for None."""
        runs = list[dict[str, Any]]()
        for seed in self.seeds:
            run_spec, start = (board.by_folder[_folder(self.key, one, seed)] for one in (value, None))
            facts, before = run_facts(run_spec, board), self._reports(start, data)
            run: dict[str, Any] = {key: facts[key] for key in RUN_FACTS}
            for name, report in self._reports(run_spec, data).items():
                run[name] = report and {
                    "accuracy": report["accuracy"],
                    "interval_95": report["interval_95"],
                    "examples": {attack: len(row) for attack, row in report["correct"].items()},
                }
                if value is not None and run["status"] == board.state(start) == "done":
                    run[f"{name}_change"] = _changes(report, before[name])
            runs.append(run)
        return runs

    def _reports(self, run_spec: RunSpec, data: DataSet) -> dict[str, dict[str, Any] | None]:
        """Return a run's reports by kind of images, None where there is none.

        The one attack on validation images is called "robust", for any number of steps.
        """
        folder = self.out / run_spec.folder
        validation, confirmed = read_json(folder / VALIDATION), read_json(folder / CONFIRMED)
        if validation is not None:
            for part in ("accuracy", "interval_95", "correct"):
                attacks = validation[part].items()
                validation[part] = {"clean" if name == "clean" else "robust": value for name, value in attacks}
        if self.confirmation is None or not _confirms(confirmed, self.confirmation, data):
            confirmed = None  # by another attack, or on other images
        return {"test": read_json(test_file(folder, "best")), "validation": validation, "confirmed": confirmed}


def _confirms(report: Mapping[str, Any] | None, settings: EvaluateSettings, data: DataSet) -> bool:
    """Return whether a report is of the costly attack, on as many images as are asked for."""
    attack = settings.attacks[0]
    made = (report or {}).get("correct", {}).get(attack, ())
    return len(made) == settings.examples_of(attack, len(data.test))


def _folder(key: str, value: float | None, seed: int) -> str:
    """Return the folder of a value's run below the curve's; of the start for None."""
    return f"{START if value is None else f'{key}-{value:g}'}/seed-{seed}"


def load_curve(
    path: str | Path,
    over: str,
    *,
    seeds: Sequence[int] = (),
    out: Path | None = None,
    overrides: Sequence[str] = (),
    evaluation: EvaluateSettings | None = None,
    at_most: float = 1.0,
    confirmation: EvaluateSettings | None = None,
) -> Curve:
    """Read a recipe and lay out its runs at several values of a coefficient.

    Args:
        path: Path or name of a recipe whose student is pre-trained.
        over: Coefficient and its values, such as "method.gradient_weight=0,0.3,1,3", or shares of the change by one
            training, such as "interpolation=0.25,0.5,0.75"; share 1, the trained student, is added.
        seeds: Seeds of every value; the recipe's where there are none.
        out: Folder for everything; None for ``runs/<file's stem>``.
        overrides: Overrides such as ``training.epochs=2``.
        evaluation: How every run and the start are attacked.
        at_most: Largest loss of validation clean accuracy of the answer, percentage points from 0 to 100.
        confirmation: Costly attack for the start and the chosen point.

    Raises:
        InputError: With every problem of the recipe; for a student without pre-trained weights, values that are not
            numbers or stand twice, or a key that the method does not have.
    """
    key, values = parse_over(over)
    options = {value: [] if key == INTERPOLATION else [f"method.{key}={value:g}"] for value in values}
    recipes = {value: load_recipe(path, [*overrides, *options[value]]) for value in values}
    recipe = recipes[values[0]]
    if recipe.student.is_fresh:
        raise InputError(
            f"{str(path)!r} trains {recipe.student.name} from fresh weights; a curve starts from a pre-trained "
            "student. Give student.weights, student.pretrained, the folder of a run, or a checkpoint."
        )
    if recipe.rounds is not None:
        raise InputError(f"{str(path)!r} has rounds, whose students start from each other; leave them out of a curve.")
    if not 0 <= at_most <= 100:
        raise InputError(f"--at-most was {at_most:g}; it is in percentage points, from 0 to 100.")
    chosen = tuple(seeds) or (recipe.training.seed,)
    if len(set(chosen)) < len(chosen) or min(chosen) < 0:
        raise InputError(f"seeds were {', '.join(map(str, chosen))}; give each once, from 0.")
    evaluation = evaluation or EvaluateSettings(("clean", "pgd-20"), which=("best",))
    run_specs = tuple(
        _run_spec(key, value, with_seed(recipe if value is None else recipes[value], seed), evaluation)
        for seed in chosen
        for value in (None, *(reversed(values) if key == INTERPOLATION else values))
    )
    title = Path(path).stem
    folder = out or Path("runs") / title
    return Curve(
        title, "kdiga curve", folder, evaluation, run_specs, key, values, chosen, recipe, at_most, confirmation
    )


def _run_spec(key: str, value: float | None, recipe: Recipe, evaluation: EvaluateSettings) -> RunSpec:
    """Return the run of a value, or of the start for None."""
    seed = recipe.training.seed
    needs, share = tuple[str, ...](), None
    if key == INTERPOLATION and value not in (None, 1.0):
        needs, share = (_folder(key, None, seed), _folder(key, 1.0, seed)), value
    kind: Kind = "start" if value is None else "method" if share is None else "interpolated"
    label = START if value is None else f"{value:g}"
    folder = _folder(key, value, seed)
    return RunSpec(folder, label, kind, recipe, needs, which=evaluation.which, validated=True, share=share)


def parse_over(text: str) -> tuple[str, tuple[float, ...]]:
    """Return a key and its rising values from a text such as ``method.gradient_weight=0,1``.

    Shares of an interpolation always have 1, the trained student.
    """
    name, _, given = text.partition("=")
    section, _, key = name.strip().partition(".")
    between = name.strip() == INTERPOLATION
    if not (between or (section == "method" and key.isidentifier() and key != INTERPOLATION)) or not given.strip():
        raise InputError(f"--over was {text!r}; {FORM}.")
    values = [float(f"{parse_number(part):g}") for part in given.split(",")]
    if not all(map(math.isfinite, values)) or len(set(values)) < len(values):
        raise InputError(f"--over was {text!r}; give finite numbers, each once.")
    if not between:
        return key, tuple(sorted(values))
    if min(values) <= 0 or max(values) > 1:
        raise InputError(f"--over was {text!r}; shares are above 0, which is the start, and at most 1.")
    return INTERPOLATION, tuple(sorted({*values, 1.0}))


def answer(content: Mapping[str, Any], *, settled: bool) -> dict[str, Any]:
    """Return which point has the most validation robust accuracy at a bounded loss of validation clean accuracy.

    Means over seeds decide; of equally robust points the one that lost less. There is no answer before every run has
    ended, which ``settled`` says.

    Args:
        content: Content of ``curve.json``, with start and points.
        settled: Whether every run has ended.

    Returns:
        "settled", "achieved", "value" (of the coefficient, or None), and "why" there is none.
    """
    nothing = {"settled": settled, "achieved": False, "value": None}
    if not settled:
        return nothing | {"why": "not every run has ended"}
    found = [point for point in content["points"] if all(run["status"] == "done" for run in point["runs"])]
    if not found:
        return nothing | {"why": "a run of every point diverged"}
    enough = [point for point in found if at_most(-_change(point, "clean"), content["at_most"] / 100)]
    if not enough:
        points = "every point" if len(found) == len(content["points"]) else "every point that did not diverge"
        return nothing | {"why": f"{points} lost more than {content['at_most']:g} points of validation accuracy"}
    best = max(enough, key=lambda point: (_change(point, "robust"), _change(point, "clean")))
    if _change(best, "robust") <= 0:
        return nothing | {"why": "no point that keeps its clean accuracy is more robust on validation images"}
    return {"settled": True, "achieved": True, "value": best["value"], "why": None}


def _change(point: Mapping[str, Any], which: str) -> float:
    """Return the mean over seeds of a point's validation accuracy less the start's."""
    changes = [run["validation_change"][which][0] for run in point["runs"]]
    return sum(changes) / len(changes)


def _changes(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> dict[str, list[float]] | None:
    """Return by attack the accuracy now less that before, on the same images, with its paired 95 % interval."""
    if now is None or before is None:
        return None
    pairs = {name: (outcome, before["correct"].get(name)) for name, outcome in now["correct"].items()}
    return {
        name: list(paired_difference(ours, others))
        for name, (ours, others) in pairs.items()
        if others is not None and len(ours) == len(others)
    }
