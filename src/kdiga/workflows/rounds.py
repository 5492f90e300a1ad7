"""Iterative distillation: the student of one round is the teacher, and the start, of the next."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.distributed.process_group import ProcessGroup
from kdiga.io.atomic_write import replacing
from kdiga.methods import method_by_name
from kdiga.recipes.schema import ModelConfig, Recipe, Rounds
from kdiga.runs.folder import RESULT, prepare_run_folder, read_result, write_config, write_result
from kdiga.training.runtime import device_by_name
from kdiga.workflows.train import run_recipe


def run_rounds(
    recipe: Recipe, out: Path, data: DataSet, *, resume: bool, overwrite: bool, **listeners: Any
) -> dict[str, Any]:
    """Run every round in a folder of its own, ``round-0`` and on, and keep the best in ``out`` itself.

    The best round is the one whose best weights scored highest on the validation split; the test set has
    no part in it. ``out`` then holds that round's weights and result, with the list of all rounds, so it
    can be evaluated like any run.

    Args:
        recipe: with ``rounds``.
        out: folder of the run.
        data: the recipe's.
        resume: continue after the last round that finished.
        overwrite: replace what is there.
        listeners: ``on_step``, ``on_epoch``, ``on_choice`` and ``on_warning`` of :func:`kdiga.distill`.

    Raises:
        InputError: as :func:`kdiga.config.run_recipe` does.
        DivergedError: if a round fails; the rounds before it are kept.
    """
    process_group = ProcessGroup.here(device_by_name(recipe.training.device))
    process_group.first(lambda: prepare_run_folder(out, resume=resume, overwrite=overwrite))
    finished = process_group.first(lambda: read_result(out) if resume and (out / RESULT).is_file() else {})
    if finished:
        return finished
    if process_group.leads:
        write_config(out, recipe.to_dict())
    results = [
        run_recipe(one, folder, resume=resume, overwrite=overwrite, data=data, **listeners)
        for one, folder in rounds_of(recipe, out)
    ]
    scores = [_score(result, recipe.training.select) for result in results]
    best = max(range(len(scores)), key=scores.__getitem__)
    for name in ("best.safetensors", "last.safetensors"):
        if process_group.leads:
            with replacing(out / name) as partial:
                shutil.copyfile(out / f"round-{best}" / name, partial)
    result = results[best] | {
        "best_round": best,
        "rounds": [{"minutes": one["minutes"], "validation": one["validation"]} for one in results],
        "minutes": round(sum(one["minutes"] for one in results), 2),
        "passes": {kind: sum(one["passes"][kind] for one in results) for kind in results[0]["passes"]},
    }
    if process_group.leads:
        write_result(out, result)
    return result


def rounds_of(recipe: Recipe, out: Path) -> Generator[tuple[Recipe, Path]]:
    """Yield each round as a recipe of its own, and its folder."""
    rounds = recipe.rounds or Rounds()
    first = replace(recipe, rounds=None)
    if recipe.teacher is None:
        first = replace(first, method=method_by_name("ce"))
    yield first, out / "round-0"
    training = replace(recipe.training, lr=recipe.training.lr * rounds.lr_factor)
    for number in range(1, rounds.count):
        former = ModelConfig(str(out / f"round-{number - 1}"), which=rounds.which)
        yield replace(recipe, rounds=None, teacher=former, student=former, training=training), out / f"round-{number}"


def _score(result: dict[str, Any], select: str) -> float:
    best = result["validation"]["best"]
    return {"robust": best["robust"], "clean": best["clean"], "mean": (best["clean"] + best["robust"]) / 2}[select]
