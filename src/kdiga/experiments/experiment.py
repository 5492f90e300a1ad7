"""What study, tune, curve and claims share: runs in a folder, made by one runner, and result files about them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from kdiga.data import DataSet
from kdiga.errors import InputError, KdigaError, some
from kdiga.experiments.board import ENDED, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.executors import HERE, ExecutorRequest
from kdiga.experiments.runner import OnProgress, run_board
from kdiga.experiments.sections import EvaluateSettings
from kdiga.experiments.trials import chosen_recipe
from kdiga.io.file_lock import file_lock
from kdiga.recipes.schema import Recipe
from kdiga.recipes.validate import recipe_from_dict
from kdiga.runs.run_folder import CONFIG, RESULT, check_usable, read_config
from kdiga.workflows.prepare import build_models

SHOWN = 3  # differences that a message names
TEACHERS = ("teacher", "second_teacher")


class RunsFailedError(KdigaError, RuntimeError):
    """Some runs have no result, for another reason than divergence, which is a result."""

    exit_status = 1


class StoppedError(KdigaError):
    """The user stopped the runs."""

    exit_status = 130


@dataclass(frozen=True)
class Experiment(ABC):
    """Runs that share a folder, data and attacks."""

    noun: ClassVar[str] = "run"  # what messages call a run

    title: str  # name for tables and pictures
    command: str  # command that continues it
    out: Path  # folder for everything
    evaluation: EvaluateSettings  # how every model is attacked
    run_specs: tuple[RunSpec, ...]  # runs in the order in which they are worth running

    @abstractmethod
    def write(self, board: RunBoard, data: DataSet, *, pictures: bool) -> dict[str, Any]:
        """Write result files, tables and pictures from the runs' folders; return the result file's content."""

    def open(self, data: DataSet, *, since: float = 0.0, look_only: bool = False) -> RunBoard:
        """Check the runs against their models and their folder, and return their board.

        Nothing is written with ``look_only``. Runs that failed before ``since`` are open again.
        """
        check_models(self.run_specs, self.out, data)
        board = RunBoard(self.run_specs, self.out, since)
        self.check(board, data, look_only=look_only)
        return board

    def check(self, board: RunBoard, data: DataSet, *, look_only: bool) -> None:
        """Check that the folder can be used, and that the runs in it are this experiment's."""
        check_folder(board, self.evaluation, data)

    def after_run(self, board: RunBoard, data: DataSet) -> None:
        """Bring the result files up to date after a run."""
        # Without pictures: drawing takes seconds in which the core could train, and --report draws them when asked.
        self.report(board, data, pictures=False)

    def finish(self, board: RunBoard, data: DataSet, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of the result file, after what is left to do once the runs have ended."""
        return content

    def run(
        self,
        board: RunBoard,
        data: DataSet,
        *,
        on_progress: OnProgress,
        request: ExecutorRequest = HERE,
        minutes: float | None = None,
    ) -> dict[str, Any]:
        """Make the runs that are not finished and return the result file's content; see :func:`run_board`."""
        run_board(
            board,
            data,
            self.evaluation,
            request=request,
            on_progress=on_progress,
            on_end=lambda: self.after_run(board, data),
            minutes=minutes,
        )
        return self.finish(board, data, self.report(board, data))

    def report(self, board: RunBoard, data: DataSet, *, pictures: bool = True) -> dict[str, Any]:
        """Write the result files from what is there, and return the content of the main one."""
        # Two commands may share the folder, and the files should be of one moment.
        with file_lock(board.out, "report", wait=True):
            board.out.mkdir(parents=True, exist_ok=True)
            return self.write(board, data, pictures=pictures)

    def shown_state(self, board: RunBoard, run_spec: RunSpec) -> str:
        """Return the state of a run in a dry run's list."""
        return board.state(run_spec)

    def check_none_failed(self, failed: Sequence[str]) -> None:
        """Raise a RunsFailedError that names runs without a result."""
        if failed:
            raise RunsFailedError(
                f"{len(failed)} {self.noun}s failed: {', '.join(failed)}; {self.out}/{self.noun.upper()}/failure.json "
                "says why. The same command tries them again."
            )

    def about(self, board: RunBoard, data: DataSet) -> dict[str, Any]:
        """Return the part of the result file that all experiments have."""
        threat = self.run_specs[0].recipe.threat
        return {
            "title": self.title,
            "command": self.command,
            "data": {"name": data.name, "source": data.source, "training_images": len(data.train)},
            "threat": {"norm": threat.norm, "eps": threat.eps},
            "attacks": {name: self.evaluation.examples_of(name, len(data.test)) for name in self.evaluation.attacks},
            "done": board.count(),
            "total": len(board.run_specs),
        }


def run_facts(run_spec: RunSpec, board: RunBoard) -> dict[str, Any]:
    """Return what result files say of a run, attacks left out."""
    result: dict[str, Any] = read_json(board.out / run_spec.folder / RESULT) or {}
    made = result.get("provenance", {})
    return {
        "folder": run_spec.folder,
        "seed": run_spec.recipe.training.seed,
        "status": board.state(run_spec),
        "error": board.error(run_spec),
        "epochs": result.get("epochs"),
        "best_epoch": result["validation"]["best"]["epoch"] + 1 if "validation" in result else None,
        "minutes": result.get("minutes"),
        "passes": result.get("passes"),
        "parameters": result.get("parameters", {}).get("student"),
        "validation": {
            which: {key: record[key] for key in ("clean", "robust")}
            for which, record in result.get("validation", {}).items()
        },
        "date": made.get("date"),
        "hardware": made.get("hardware"),
    }


def describe_outcome(board: RunBoard, folder: str) -> str:
    """Return the outcome of a run in a few words."""
    run_spec = board.by_folder[folder]
    facts = run_facts(run_spec, board)
    if facts["status"] != "done":
        return f"{facts['status']}: {facts['error'].split('. ')[0]}"
    reports = (read_json(test_file(board.out / folder, which)) for which in run_spec.which)
    accuracies = (report["accuracy"] for report in reports if report)
    scores = next(accuracies, None) or {"validation PGD": facts["validation"]["best"]["robust"]}
    return (
        f"{', '.join(f'{name} {score:.1%}' for name, score in scores.items())}, trained in {facts['minutes']:.1f} min"
    )


# Checks before anything runs


def check_models(run_specs: Sequence[RunSpec], out: Path, data: DataSet) -> None:
    """Build every student and teacher once; of the experiment's own teachers the architecture alone."""
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
    """Return the runs' recipes, the experiment's own teachers by their architecture, so that they need no training."""
    by_path = {str(out / run_spec.folder): run_spec.recipe.student for run_spec in run_specs}
    recipes = list[Recipe]()
    for run_spec in run_specs:
        given = {key: getattr(run_spec.recipe, key) for key in TEACHERS}
        known: dict[str, Any] = {key: by_path.get(one.name, one) for key, one in given.items() if one is not None}
        recipes.append(replace(run_spec.recipe, **known))
    return recipes


def check_folder(board: RunBoard, evaluation: EvaluateSettings, data: DataSet) -> None:
    """Check that the folder can be used, and that the runs in it are this experiment's."""
    check_usable(board.out)
    wanted = {f"images of {attack}": evaluation.examples_of(attack, len(data.test)) for attack in evaluation.attacks}
    for run_spec in board.run_specs:
        folder = board.out / run_spec.folder
        problem = _recipe_problem(run_spec, board, read_config(folder))
        if problem:
            where = f"{run_spec.folder} in {str(board.out)!r}"
            raise InputError(f"{where} {problem}; give another --out, or delete {str(folder)!r}.")
        for which in run_spec.which:
            path = test_file(folder, which)
            found = {f"images of {name}": len(row) for name, row in (read_json(path) or {}).get("correct", {}).items()}
            if path.is_file():
                _check_settings(path, {key: found[key] for key in wanted if key in found}, wanted, "attacked")
        for measurement in run_spec.after:
            path = folder / measurement.file
            if path.is_file():
                _check_settings(path, (read_json(path) or {})["settings"], measurement.asked, "measured")


def _recipe_problem(run_spec: RunSpec, board: RunBoard, saved: dict[str, Any] | None) -> str | None:
    """Return in words why the run in the folder, made by the recipe ``saved``, is another one; None if it is this."""
    if saved is None:
        return None
    try:
        # Through the reader, so that a key which was added since has its default on both sides.
        there = _plain(recipe_from_dict(saved, origin=str(board.out / run_spec.folder / CONFIG)))
    except InputError as error:
        return f"was made by another version ({str(error).splitlines()[0]})"
    # What it depends on is missing, so it depended on something else.
    later = [name for name in run_spec.needs if not (board.out / name / RESULT).is_file()]
    later += [name for name in run_spec.judged_by if board.state(board.by_folder[name]) not in ENDED]
    if later:
        return f"was run before {later[0]}, which it depends on"
    different = _differences(there, _plain(chosen_recipe(run_spec, board.trials_of(run_spec), board.out)))
    return f"has another configuration: {different}" if different else None


def _check_settings(path: Path, there: Mapping[str, Any], here: Mapping[str, Any], how: str) -> None:
    different = _differences(there, here)
    if different:
        # A run that was restored may have no weights.
        weights = any(path.parent.glob("*.safetensors"))
        again = f"the weights are {how} again, not trained again" if weights else "it is trained again"
        raise InputError(
            f"{str(path)!r} has other settings: {different}; give another --out, or delete "
            f"{str(path if weights else path.parent)!r}, and {again}."
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return the first keys with different values, in words; an empty text if all are the same."""

    def shown(content: Mapping[str, Any], key: str) -> str:
        return repr(content[key]) if key in content else "missing"

    found = [(key, shown(there, key), shown(here, key)) for key in {**there, **here}]
    return some([f"{key} is {old} there and {new} here" for key, old, new in found if old != new], SHOWN)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as values by dotted key, its teachers without the folder of the experiment, which may move."""
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
