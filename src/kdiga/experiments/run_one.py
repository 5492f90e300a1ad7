"""One run from start to end, in this process: train, attack, validate, measure, write down."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdiga.data import DataSet, FileSet, ImageSet, augmentation_by_name, feed_of
from kdiga.distributed.launch import one_thread
from kdiga.errors import DivergedError, InputError, KdigaError
from kdiga.evaluation.accuracies import BY_ATTACK, joined_findings
from kdiga.evaluation.measure import BATCH_SIZE, measure
from kdiga.evaluation.stages import AttackSettings
from kdiga.experiments.board import VALIDATION, RunSpec, note_failure, read_json, run_state, test_file
from kdiga.experiments.sections import AUTOATTACK_VERSION, COSTLY, EvaluateSettings
from kdiga.experiments.trials import chosen_recipe
from kdiga.io.atomic_write import WriteError
from kdiga.io.file_lock import file_lock
from kdiga.model_state import seeded
from kdiga.models import count_parameters, load_model, save_model
from kdiga.recipes.schema import DataConfig, Recipe
from kdiga.runs.fingerprints import describe_model, fingerprint_of_images, fingerprint_of_model
from kdiga.runs.provenance import provenance
from kdiga.runs.run_folder import FAILURE, RESULT, prepare_run_folder, read_result, write_json, write_result
from kdiga.runs.work_units import FOLDER, ResultCache
from kdiga.training.averaging import interpolated
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import attack_of
from kdiga.workflows.identity import write_identity
from kdiga.workflows.prepare import PreparedRun, load_recipe_data, prepare
from kdiga.workflows.train import run_recipe

ONE_RUN = threading.Lock()  # two runs in the threads of one process would share random streams


@dataclass(frozen=True)
class RunTask:
    """A run with all that another process needs to make it; relative paths start from ``working_folder``."""

    run_spec: RunSpec
    trials: tuple[RunSpec, ...]
    out: Path
    since: float
    evaluation: EvaluateSettings
    working_folder: Path


def run_in_worker(task: RunTask) -> bool | KdigaError | OSError:
    """Do what :func:`run_if_open` does in a worker process, with one thread; return an error instead of raising it.

    So an exception that an executor raises is the executor's own: it lost the worker.
    """
    with ONE_RUN, one_thread():
        try:
            with chdir(task.working_folder):
                return run_if_open(task, _data(task.run_spec.recipe.data))
        except (KdigaError, OSError) as error:
            return error


@lru_cache(maxsize=1)
def _data(config: DataConfig) -> DataSet:
    return load_recipe_data(config)


def run_if_open(task: RunTask, data: DataSet) -> bool:
    """Make a run, unless another process makes it or has made it; return whether it was made here."""
    with file_lock(task.out, task.run_spec.folder) as mine:
        if not mine or run_state(task.run_spec, task.out, task.since) != "open":
            return False
        _run(task, data)
    return True


def _run(task: RunTask, data: DataSet) -> None:
    """Train and attack, or continue an interrupted run; an error is written to the run's folder."""
    run_spec, folder = task.run_spec, task.out / task.run_spec.folder
    recipe = chosen_recipe(run_spec, task.trials, task.out)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        if run_spec.is_trained:
            result = run_recipe(prepare(recipe, data), folder, resume=True)
        else:
            result = save_untrained(run_spec, recipe, task.out, data)
        test_run(folder, run_spec, recipe, result, data, task.evaluation)
        if run_spec.validated and not (folder / VALIDATION).is_file():
            validate_run(folder, recipe, data, task.evaluation.seed)
        for measurement in run_spec.after:
            if not (folder / measurement.file).is_file():
                measurement.run(folder, task.out, recipe, data)
    except WriteError:
        raise  # a full disk concerns every run
    except DivergedError as error:
        note_failure(folder, "diverged", str(error), time.time())
    except Exception as error:  # an error of one run does not end the others
        message = str(error) if isinstance(error, KdigaError) else f"{type(error).__name__}: {error}"
        note_failure(folder, "failed", message, time.time(), traceback.format_exc())


# A model that is not trained


def save_untrained(run_spec: RunSpec, recipe: Recipe, out: Path, data: DataSet) -> dict[str, Any]:
    """Write a student before training, or one between before and after, as the best weights of a run.

    Before training the recipe's seed decides the weights that are fresh, such as a new head.

    Returns:
        Content of ``result.json``. An interpolated run has ``interpolated``: its share, and the fingerprints of both
        ends.
    """
    folder = out / run_spec.folder
    if (folder / RESULT).is_file():
        return read_result(folder)
    prepare_run_folder(folder, resume=True, overwrite=False)
    prepared = prepare(recipe, data)
    write_identity(prepared, folder)
    if run_spec.share is None:
        student, added = save_start_weights(recipe, folder, data), {}
    else:
        start, trained = (load_model(out / need).to(prepared.device) for need in run_spec.needs)
        student = interpolated(start, trained, run_spec.share, _training_batches(prepared)).cpu()
        save_model(student, folder / "best.safetensors", which="interpolated", seed=recipe.training.seed)
        ends = [read_result(out / need)["fingerprints"]["best"] for need in run_spec.needs]
        added = {"interpolated": {"share": run_spec.share, "ends": ends}}
    untrained = {"epoch": -1, "clean": None, "robust": None}
    result = {
        "method": run_spec.kind,
        "epochs": 0,
        "minutes": 0.0,
        "seed": recipe.training.seed,
        "threat": asdict(recipe.threat),
        "validation": {"best": untrained, "last": untrained},
        "parameters": {"student": count_parameters(student)},
        "fingerprints": {"best": fingerprint_of_model(student)},
        "provenance": provenance(),
    } | added
    write_result(folder, result)
    return result


def _training_batches(prepared: PreparedRun) -> Iterator[Tensor]:
    """Yield the training images of an epoch, augmented as in training."""
    settings = prepared.recipe.training
    augmentation = augmentation_by_name(settings.augment, prepared.data.train.image_size)
    asked: dict[str, Any] = {"batch_size": settings.batch_size, "seed": settings.seed, "augmentation": augmentation}
    with seeded(settings.seed, 0):
        for batch in feed_of(prepared.train, device=prepared.device, **asked).epoch(0):
            yield batch.images


def save_start_weights(recipe: Recipe, folder: Path, data: DataSet) -> nn.Module:
    """Write the weights alone, and return the student."""
    student = prepare(recipe, data).models.student
    save_model(student, folder / "best.safetensors", which="start", seed=recipe.training.seed)
    return student


# Attacks


def test_run(
    folder: Path, run_spec: RunSpec, recipe: Recipe, result: dict[str, Any], data: DataSet, evaluation: EvaluateSettings
) -> None:
    """Attack a run's weights on test images and write what ``kdiga evaluate --json`` would.

    Best and last weights are attacked once where they are the same epoch's.
    """
    same = result["validation"]["best"]["epoch"] == result["validation"]["last"]["epoch"]
    done: dict[str, Any] | None = None
    for which in run_spec.which:
        path = test_file(folder, which)
        report = read_json(path)
        if report is None:
            report = done if same and done else attack_run(folder, recipe, which, data, evaluation)
            check_same_weights(path, report, result)
            write_json(path, report | {"which": which})
        done = report


def check_same_weights(path: Path, report: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Check that a report is about the weights that its run ended with, where both say it.

    Raises:
        InputError: If it is about others; the message has both fingerprints.
    """
    made, attacked = (result.get("fingerprints") or {}).get(report.get("which")), report.get("fingerprint")
    if made and attacked and made != attacked:
        raise InputError(
            f"{str(path)!r} is of the weights {attacked[:12]}, and its run's {RESULT} of {made[:12]}; delete "
            f"{str(path.parent)!r}, and it is trained again."
        )


def attack_run(folder: Path, recipe: Recipe, which: str, data: DataSet, evaluation: EvaluateSettings) -> dict[str, Any]:
    """Attack a run's best or last weights on test images and return what ``kdiga evaluate --json`` would write."""
    groups: dict[int, list[str]] = {}  # attacks by their number of images, the cheap ones first
    for attack in sorted(evaluation.attacks, key=lambda name: name == COSTLY):
        groups.setdefault(evaluation.examples_of(attack, len(data.test)), []).append(attack)
    options: dict[str, Any] = {"seed": evaluation.seed, "version": AUTOATTACK_VERSION}
    merged, *others = (
        _attacked(folder, recipe, which, data.test, attacks=attacks, examples=examples, **options)
        for examples, attacks in groups.items()
    )
    for other in others:  # of what two measured, on more or fewer images, the first counts
        for key in BY_ATTACK:
            merged[key] |= {name: value for name, value in other[key].items() if name not in merged[key]}
        merged["findings"] = joined_findings(other["findings"], merged["findings"])
    about = {"kind": "evaluation", "data": data.name, "version": AUTOATTACK_VERSION}
    return about | {"data_fingerprint": fingerprint_of_images(data.test.take(slice(max(groups))))} | merged


def _attacked(
    folder: Path, recipe: Recipe, which: str, images: ImageSet | FileSet, *, seed: int, **options: Any
) -> dict[str, Any]:
    """Return the description of a run's weights and the report of attacks on them, in one."""
    model = load_model(folder, which=which)
    about = describe_model(model, str(folder), which)
    model.to(device_by_name(recipe.training.device))
    settings = AttackSettings(recipe.threat, seed, BATCH_SIZE, ResultCache(folder / FOLDER))
    return about | measure(model, images.batches(), settings, **options).to_dict()


def validation_attack(recipe: Recipe) -> str:
    """Return the name of the attack that validates a recipe's runs."""
    return attack_of(recipe.training.validation_steps)


def validate_run(folder: Path, recipe: Recipe, data: DataSet, seed: int) -> None:
    """Attack a run's best weights on the validation images, and save each image's outcome.

    Training saves only accuracies, under an attack with other random starts in every epoch. To compare a run with its
    start image by image, both are attacked alike.

    The recipe's seed decides which training images those are; ``seed`` is the attack's.
    """
    images = prepare(recipe, data).validation
    report = _attacked(folder, recipe, "best", images, attacks=[validation_attack(recipe)], seed=seed)
    write_json(folder / VALIDATION, {"kind": "validation", "data": data.name} | report)
