"""A pre-trained student before training, kept as a run would be; it and the runs judged on validation images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdiga.data import DataSet
from kdiga.evaluation import evaluate
from kdiga.experiments.board import VALIDATION
from kdiga.models import count_parameters, load_model, save_model
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import RESULT, prepare_run_folder, read_result, write_config, write_result
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import FOLDER
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import attack_of
from kdiga.workflows.loaded_model import describe
from kdiga.workflows.prepare import build_models, prepare


def keep_start(recipe: Recipe, folder: Path, data: DataSet) -> dict[str, Any]:
    """Write a recipe's student as it is before the first step, in the place of a run's best weights.

    Args:
        recipe: whose student; its seed decides the weights that are fresh, such as a new head.
        folder: of the start.
        data: that it has to fit.

    Returns:
        what ``result.json`` holds.
    """
    if (folder / RESULT).is_file():
        return read_result(folder)
    prepare_run_folder(folder, resume=True, overwrite=False)
    write_config(folder, recipe.to_dict())
    student = save_start(recipe, folder, data)
    untrained = {"epoch": -1, "clean": None, "robust": None}
    result = {
        "method": "start",
        "epochs": 0,
        "minutes": 0.0,
        "seed": recipe.training.seed,
        "threat": asdict(recipe.threat),
        "validation": {"best": untrained, "last": untrained},
        "parameters": {"student": count_parameters(student)},
        "provenance": provenance(),
    }
    write_result(folder, result)
    return result


def save_start(recipe: Recipe, folder: Path, data: DataSet) -> nn.Module:
    """Write the weights alone, and return the student."""
    student = build_models(recipe, data).student
    save_model(student, folder / "best.safetensors", which="start", seed=recipe.training.seed)
    return student


def validation_attack(recipe: Recipe) -> str:
    """Return the name of the attack that validates a recipe's runs."""
    return attack_of(recipe.training.validation_steps)


def validate_run(folder: Path, recipe: Recipe, data: DataSet, seed: int) -> None:
    """Attack a run's best weights on the images that training held out, and keep each image's outcome.

    Training itself keeps only accuracies, under an attack that starts elsewhere in every epoch; to compare a run with
    its start image by image, both are attacked alike.

    Args:
        folder: of the run.
        recipe: of the run; its seed decides which images were held out.
        data: whose training images they were cut from.
        seed: of the attack.
    """
    if (folder / VALIDATION).is_file():
        return
    settings, images = recipe.training, prepare(recipe, data).validation
    model = load_model(folder, which="best")
    about = describe(model, str(folder), "best")
    report = evaluate(
        model.to(device_by_name(settings.device)),
        images.batches(examples=settings.validation_examples),
        eps=recipe.threat.eps,
        norm=recipe.threat.norm,
        attacks=[validation_attack(recipe)],
        seed=seed,
        folder=folder / FOLDER,
    )
    write_result(folder, {"kind": "validation", **about, "data": data.name, **report.to_dict()}, VALIDATION)
