"""Train a recipe in a folder: one run, or rounds in which the student of one round teaches the next."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import InputError
from kdiga.io.atomic_write import replacing
from kdiga.methods import method_by_name
from kdiga.models import Classifier, count_parameters, load_model, save_model
from kdiga.recipes.schema import ModelConfig, Recipe, Rounds
from kdiga.results.shared import without_folders
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.run_folder import (
    RESULT,
    exclusive_run,
    prepare_run_folder,
    read_config,
    read_result,
    write_result,
)
from kdiga.teachers import CachedTeacher
from kdiga.training import TrainingResult, distill
from kdiga.training.divergence import CollapsedError
from kdiga.training.loop import TrainingCallbacks
from kdiga.training.resume import FILE as STATE
from kdiga.training.resume import remove_state
from kdiga.training.validation import Scores
from kdiga.workflows.cache import stored_teacher
from kdiga.workflows.identity import check_same_run, write_identity
from kdiga.workflows.prepare import PreparedRun, prepare


def run_recipe(
    run: PreparedRun,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: TrainingCallbacks | None = None,
) -> dict[str, Any]:
    """Train a recipe in its folder, and return the content of ``result.json``.

    Writes ``config.yaml``, ``journal.jsonl`` and, after training has succeeded, ``best.safetensors``,
    ``last.safetensors`` and ``result.json``. With several processes every process makes the call, and the first one
    writes. To resume a finished run returns it unchanged. To overwrite a run with rounds removes all of them first.

    Raises:
        InputError: If anything in the recipe cannot be loaded, or ``out`` holds another run.
        DivergedError: If training fails. A student that is no better than guessing leaves its weights, marked as
            collapsed, and its state: ``resume`` without ``training.stop_at_chance`` continues.
    """
    if run.recipe.rounds is not None:
        return _run_rounds(run, out, resume=resume, overwrite=overwrite, callbacks=callbacks)
    process_group = ProcessGroup.connect(run.device)
    models = run.models
    finished = process_group.broadcast(resume and (out / RESULT).is_file())
    # Before the folder is prepared: a store that does not fit must not delete the run that --overwrite replaces.
    stored = None if finished else stored_teacher(run)
    with ExitStack() as stack:
        process_group.run_on_first(lambda: stack.enter_context(exclusive_run(out)))
        continues = process_group.run_on_first(lambda: _prepare(run, out, resume=resume, overwrite=overwrite))
        if finished:
            return process_group.run_on_first(lambda: _earlier_result(out))
        if process_group.leads and not continues:
            write_identity(run, out)
        try:
            outcome = distill(
                models.student,
                stored or models.teacher,
                run.train,
                method=run.recipe.method,
                second_teacher=models.second_teacher,
                threat=run.recipe.threat,
                validation=run.validation,
                out=out,
                resume=resume,
                progress=False,
                **vars(callbacks or TrainingCallbacks()),
                **asdict(run.recipe.training),
            )
        except CollapsedError as error:
            if process_group.leads and error.result is not None:
                _write_weights(run, out, error.result, collapsed=True)
            raise
        result = _result(run, outcome, stored)
        if process_group.leads:
            if continues:
                write_identity(run, out)  # only now: the state was accepted
            _write(run, out, outcome, result)
        process_group.broadcast(None)  # the other processes return after the weights are written
    return result


def _prepare(run: PreparedRun, out: Path, *, resume: bool, overwrite: bool) -> bool:
    """Prepare the folder, and return whether it holds this run, finished or with a state or rounds to continue from."""
    begun = resume and any((out / name).exists() for name in (RESULT, STATE, "round-0"))
    if begun and not overwrite:
        check_same_run(run, out)
    if overwrite and not resume:
        _remove_rounds(out)
    prepare_run_folder(out, resume=resume, overwrite=overwrite)
    return begun


def _remove_rounds(out: Path) -> None:
    """Remove the runs of all rounds in a folder, as --overwrite removes a run; without rounds, leave it as it is."""
    try:
        whole = read_config(out) or {}
    except InputError:  # a damaged recipe, of a run that is removed
        return
    for folder in sorted(out.glob("round-*")) if whole.get("rounds") else ():
        with exclusive_run(folder):
            prepare_run_folder(folder, overwrite=True)


def _result(run: PreparedRun, outcome: TrainingResult, stored: CachedTeacher | None) -> dict[str, Any]:
    data, (student, teacher, _) = run.data, run.models
    return (
        outcome.to_dict()
        | {
            "threat": asdict(run.recipe.threat),
            "data": {
                "name": data.name,
                "source": data.source,
                "classes": list(data.train.classes),
                "notes": list(data.notes),
            },
            "parameters": {
                "student": count_parameters(student),
                "teacher": None if teacher is None else count_parameters(teacher),
            },
            "fingerprints": _fingerprints(student, outcome),
        }
        | ({} if stored is None else {"teacher_cache": stored.about()})
    )


def _write(run: PreparedRun, out: Path, outcome: TrainingResult, result: dict[str, Any]) -> None:
    _write_weights(run, out, outcome)
    write_result(out, result)
    remove_state(out)  # only now: the disk may have no room for the weights, and then the state is needed


def _write_weights(run: PreparedRun, out: Path, outcome: TrainingResult, **marks: bool) -> None:
    recipe, student = run.recipe, run.models.student
    about = {"method": outcome.method, "seed": outcome.seed, "threat": asdict(recipe.threat)}
    about["data"] = without_folders(recipe.data.name)  # weights are published
    about |= marks
    for which, state in (("last", outcome.last_state), ("best", outcome.best_state)):
        student.load_state_dict(dict(state))
        save_model(student, out / f"{which}.safetensors", which=which, **about)


def _fingerprints(student: Classifier, outcome: TrainingResult) -> dict[str, str]:
    """Return the fingerprint of the student with each of the stored weights; the student is left with the best ones."""
    found = dict[str, str]()
    for which, state in (("last", outcome.last_state), ("best", outcome.best_state)):
        student.load_state_dict(dict(state))
        found[which] = fingerprint_of_model(student)
    return found


def _earlier_result(out: Path) -> dict[str, Any]:
    result = read_result(out)
    for which, made in (result.get("fingerprints") or {}).items():
        path = out / f"{which}.safetensors"
        if path.is_file() and (found := fingerprint_of_model(load_model(path))) != made:
            raise InputError(
                f"{str(path)!r} holds the weights {found[:12]}, and its run's {RESULT} is of {made[:12]}; put the "
                "run's weights back, or train it again with --overwrite."
            )
    remove_state(out)  # left by a process that was killed between result and removal
    return result


def _run_rounds(
    run: PreparedRun, out: Path, *, resume: bool, overwrite: bool, callbacks: TrainingCallbacks | None
) -> dict[str, Any]:
    """Run every round in its folder, ``round-0`` and on, and copy the best round to ``out``.

    The best round has the best weights with the highest score on the validation images. ``out`` then holds its
    weights and result, with a list of all rounds, and can be evaluated like any run. ``resume`` continues after the
    last finished round.
    """
    recipe = run.recipe
    process_group = ProcessGroup.connect(run.device)
    process_group.run_on_first(lambda: _prepare(run, out, resume=resume, overwrite=overwrite))
    finished = process_group.run_on_first(lambda: _earlier_result(out) if resume and (out / RESULT).is_file() else {})
    if finished:
        return finished
    if process_group.leads:
        write_identity(run, out)
    results = [
        run_recipe(prepare(one, run.data), folder, resume=resume, overwrite=overwrite, callbacks=callbacks)
        for one, folder in rounds_of(recipe, out)
    ]
    bests = [result["validation"]["best"] for result in results]
    scores = [Scores(one["clean"], one["robust"], 0).by(recipe.training.select) for one in bests]
    best = max(range(len(scores)), key=scores.__getitem__)
    for name in ("best.safetensors", "last.safetensors"):
        if process_group.leads:
            with replacing(out / name) as partial:
                shutil.copyfile(out / f"round-{best}" / name, partial)
    result = results[best] | {
        "best_round": best,
        "rounds": [{"minutes": one["minutes"], "validation": one["validation"]} for one in results],
        "epochs": sum(one["epochs"] for one in results),
        "minutes": round(sum(one["minutes"] for one in results), 2),
        "passes": {kind: sum(one["passes"][kind] for one in results) for kind in results[0]["passes"]},
    }
    if process_group.leads:
        write_result(out, result)
    return result


def rounds_of(recipe: Recipe, out: Path) -> Generator[tuple[Recipe, Path]]:
    """Yield the recipe and the folder of each round."""
    rounds = recipe.rounds or Rounds()
    first = replace(recipe, rounds=None)
    if recipe.teacher is None:
        first = replace(first, method=method_by_name("ce"))
    yield first, out / "round-0"
    training = replace(recipe.training, lr=recipe.training.lr * rounds.lr_factor)
    for number in range(1, rounds.count):
        former = ModelConfig(str(out / f"round-{number - 1}"), which=rounds.which)
        yield replace(recipe, rounds=None, teacher=former, student=former, training=training), out / f"round-{number}"
