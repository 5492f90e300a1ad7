"""What a study file cannot show by itself: whether its models fit the data, and its folder the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from kdiga.data import DataSet
from kdiga.errors import InputError, some
from kdiga.experiments.board import ENDED, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.settings import EvaluateSettings
from kdiga.experiments.study import TEACHERS
from kdiga.experiments.trials import chosen_recipe
from kdiga.recipes.load import recipe_from_dict
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import CONFIG, RESULT, check_usable, read_config
from kdiga.workflows.prepare import build_models

SHOWN = 3


def check_models(run_specs: Sequence[RunSpec], out: Path, data: DataSet) -> None:
    """Build every student and teacher once, the study's own teachers by architecture alone.

    Raises:
        InputError: naming a run whose models cannot be built or do not fit the data.
    """
    seen = set[str]()
    for run_spec, recipe in zip(run_specs, with_known_teachers(run_specs, out), strict=True):
        models = repr([getattr(recipe, key) for key in ("student", *TEACHERS)])
        if models in seen:
            continue
        seen.add(models)
        try:
            build_models(recipe, data)
        except InputError as error:
            raise InputError(f"{run_spec.folder}: {error}") from None


def with_known_teachers(run_specs: Sequence[RunSpec], out: Path) -> list[Recipe]:
    """Return the cells' recipes, the study's own teachers by their architecture, so that they need not be trained."""
    by_path = {str(out / run_spec.folder): run_spec.recipe.student for run_spec in run_specs}
    recipes = list[Recipe]()
    for run_spec in run_specs:
        given = {key: getattr(run_spec.recipe, key) for key in TEACHERS}
        known = {key: by_path.get(one.name, one) for key, one in given.items() if one is not None}
        changes: dict[str, Any] = known
        recipes.append(replace(run_spec.recipe, **changes))
    return recipes


def check_folder(board: RunBoard, evaluation: EvaluateSettings, data: DataSet) -> None:
    """Check that the study's folder can be used, and that what lies in it was made by this study.

    Raises:
        InputError: naming the run, the keys and both values.
    """
    check_usable(board.out)
    for run_spec in board.run_specs:
        folder = board.out / run_spec.folder
        saved = read_config(folder)
        if saved is not None:
            _check_recipe(run_spec, board, saved)
        for which in run_spec.which:
            report = read_json(test_file(folder, which))
            if report is not None:
                _check_report(run_spec, test_file(folder, which), report, evaluation, data)
        for step in run_spec.after:
            found = read_json(folder / step.file)
            if found is not None:
                _check_step(run_spec, folder / step.file, found["settings"], step.asked)


def _check_recipe(run_spec: RunSpec, board: RunBoard, saved: Mapping[str, Any]) -> None:
    folder = board.out / run_spec.folder
    try:
        # Through the reader, so that a key which was added since has its default on both sides.
        there = _plain(recipe_from_dict(saved, origin=str(folder / CONFIG)))
    except InputError as error:
        raise InputError(
            f"{run_spec.folder} in {str(board.out)!r} was made by another version ({str(error).splitlines()[0]}); give "
            f"another --out, or delete {str(folder)!r}."
        ) from None
    # It was begun after them; so they are new, and it learned from others.
    later = [name for name in run_spec.needs if not (board.out / name / RESULT).is_file()]
    later += [name for name in run_spec.judged_by if board.state(board.by_folder[name]) not in ENDED]
    if later:
        raise InputError(
            f"{run_spec.folder} in {str(board.out)!r} was run before {later[0]}, which it depends on; give another "
            f"--out, or delete {str(folder)!r}."
        )
    here = _plain(chosen_recipe(run_spec, [board.by_folder[name] for name in run_spec.trials], board.out))
    differences = [
        f"{key} is {_shown(there, key)} there and {_shown(here, key)} here"
        for key in {**there, **here}
        if _shown(there, key) != _shown(here, key)
    ]
    if differences:
        raise InputError(
            f"{run_spec.folder} in {str(board.out)!r} has another configuration: {some(differences, SHOWN)}; "
            f"give another --out, or delete {str(folder)!r}."
        )


def _check_report(
    run_spec: RunSpec, path: Path, report: Mapping[str, Any], evaluation: EvaluateSettings, data: DataSet
) -> None:
    there = {attack: len(correct) for attack, correct in report["correct"].items()}
    for attack in evaluation.attacks:
        here = evaluation.examples_of(attack, len(data.test))
        if there.get(attack) != here:
            given = f"{there[attack]} test images" if attack in there else "none"
            raise InputError(
                f"{run_spec.folder} has {attack} on {given} in {path.name} and this study wants {here}; give another "
                f"--out, or delete {_redone(path, 'attacked')}."
            )


def _check_step(run_spec: RunSpec, path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differences = [
        f"{key} is {_shown(there, key)} there and {_shown(here, key)} here"
        for key in {**there, **here}
        if _shown(there, key) != _shown(here, key)
    ]
    if differences:
        raise InputError(
            f"{run_spec.folder} has a {path.name} by other settings: {some(differences, SHOWN)}; give another --out, "
            f"or delete {_redone(path, 'looked at')}."
        )


def _redone(path: Path, how: str) -> str:
    """Return what to delete so that a file is made again; a run that was brought back may have no weights."""
    if any(path.parent.glob("*.safetensors")):
        return f"{str(path)!r}, and the weights are {how} again, not trained again"
    return f"{str(path.parent)!r}, and it is trained again"


def _shown(content: Mapping[str, Any], key: str) -> str:
    return repr(content[key]) if key in content else "missing"


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as values by dotted key, its teachers called by what a moved folder keeps."""
    content: dict[str, Any] = json.loads(json.dumps(recipe.to_dict()))
    for key in TEACHERS:
        section = content.get(key)
        if section is not None and Path(section["name"]).parts[-2:-1] == ("teachers",):
            section["name"] = "/".join(Path(section["name"]).parts[-2:])
    return dict(_flat(content))


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{above}{key}.")
        else:
            yield f"{above}{key}", value
