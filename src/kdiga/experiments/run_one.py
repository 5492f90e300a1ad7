"""One cell from start to end: train, attack, write down."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.errors import DivergedError, KdigaError
from kdiga.evaluation import Evaluation, evaluate
from kdiga.experiments.board import FAILURE, RunBoard, RunSpec, note_failure, read_json, test_file
from kdiga.experiments.settings import COSTLY, EvaluateSettings
from kdiga.experiments.starting_student import keep_start, validate_run
from kdiga.experiments.trials import chosen_recipe
from kdiga.io.atomic_write import WriteError
from kdiga.models import load_model
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import write_result
from kdiga.runs.work_units import FOLDER
from kdiga.training.runtime import device_by_name
from kdiga.workflows.loaded_model import describe
from kdiga.workflows.prepare import prepare
from kdiga.workflows.train import run_recipe

VERSION = "standard"  # of AutoAttack


def run_one(run_spec: RunSpec, board: RunBoard, data: DataSet, evaluation: EvaluateSettings) -> None:
    """Train and attack, or go on where an interrupted process stopped; what goes wrong is noted in the folder.

    Args:
        run_spec: ready to run.
        board: of all cells.
        data: of the study.
        evaluation: how to attack.
    """
    folder = board.out / run_spec.folder
    recipe = chosen_recipe(run_spec, [board.by_folder[name] for name in run_spec.trials], board.out)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        if run_spec.kind == "start":
            result = keep_start(recipe, folder, data)
        else:
            result = run_recipe(prepare(recipe, data), folder, resume=True)
        test_run(folder, recipe, result, data, run_spec.which, evaluation)
        if run_spec.validated:
            validate_run(folder, recipe, data, evaluation.seed)
        for step in run_spec.after:
            if not (folder / step.file).is_file():
                step.run(folder, board.out, recipe, data)
    except WriteError:
        raise  # the disk's trouble is every cell's
    except DivergedError as error:
        note_failure(folder, "diverged", str(error), time.time())
    except Exception as error:  # one cell's trouble is not the others'
        told = str(error) if isinstance(error, KdigaError) else f"{type(error).__name__}: {error}"
        note_failure(folder, "failed", told, time.time(), traceback.format_exc())


def test_run(
    folder: Path,
    recipe: Recipe,
    result: dict[str, Any],
    data: DataSet,
    which: Sequence[str],
    evaluation: EvaluateSettings,
) -> None:
    """Attack a run's weights and write what ``kdiga evaluate --json`` would.

    Args:
        folder: of the run.
        recipe: of the run.
        result: of the run.
        data: whose test images are attacked.
        which: "best", "last" or both; attacked once where they are the same epoch's.
        evaluation: how.
    """
    same = result["validation"]["best"]["epoch"] == result["validation"]["last"]["epoch"]
    done: dict[str, Any] | None = None
    for one in which:
        path = test_file(folder, one)
        report = read_json(path)
        if report is None:
            report = done if same and done else attack_run(folder, recipe, one, data, evaluation)
            write_result(folder, report | {"which": one}, path.name)
        done = report


def attack_run(folder: Path, recipe: Recipe, which: str, data: DataSet, evaluation: EvaluateSettings) -> dict[str, Any]:
    """Attack a run's best or last weights on test images and return what ``kdiga evaluate --json`` would write.

    Args:
        folder: of the run; attacks that were begun go on there.
        recipe: of the run.
        which: "best" or "last".
        data: whose test images are attacked.
        evaluation: how.
    """
    model = load_model(folder, which=which)
    about = describe(model, str(folder), which)
    model.to(device_by_name(recipe.training.device))
    reports: list[Evaluation] = []
    for attacks, examples in _groups(evaluation, len(data.test)):
        reports.append(
            evaluate(
                model,
                data.test.batches(),
                eps=recipe.threat.eps,
                norm=recipe.threat.norm,
                attacks=attacks,
                examples=examples,
                seed=evaluation.seed,
                version=VERSION,
                folder=folder / FOLDER,
            )
        )
    header = {"kind": "evaluation", **about, "data": data.name, "version": VERSION}
    return header | _merged([report.to_dict() for report in reports])


def _groups(evaluation: EvaluateSettings, available: int) -> list[tuple[list[str], int]]:
    """Return the attacks by how many images they look at, the cheap ones first."""
    groups: dict[int, list[str]] = {}
    for attack in sorted(evaluation.attacks, key=lambda name: name == COSTLY):
        groups.setdefault(evaluation.examples_of(attack, available), []).append(attack)
    return [(attacks, examples) for examples, attacks in groups.items()]


def _merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one report; of what two measured, on more or fewer images, the first counts."""
    first = reports[0]
    for other in reports[1:]:
        for key in ("accuracy", "interval_95", "seconds", "notes", "stages", "correct"):
            first[key] |= {name: value for name, value in other[key].items() if name not in first[key]}
    return first
