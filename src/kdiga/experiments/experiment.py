"""What study, tune, curve and claims share: runs in a folder, made by one runner, and result files about them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from kdiga.data import DataSet
from kdiga.errors import InputError, KdigaError
from kdiga.experiments.board import ENDED, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.executors import HERE, ExecutorRequest
from kdiga.experiments.run_one import check_same_weights
from kdiga.experiments.runner import OnProgress, run_board
from kdiga.experiments.sections import AUTOATTACK_VERSION, EvaluateSettings
from kdiga.experiments.trials import chosen_recipe
from kdiga.io.file_lock import file_lock
from kdiga.recipes.schema import ModelConfig, Recipe
from kdiga.recipes.validate import recipe_from_dict
from kdiga.runs.fingerprints import fingerprint_of_images, fingerprint_of_model
from kdiga.runs.run_folder import CONFIG, RESULT, check_usable, read_config
from kdiga.statistics import percent
from kdiga.workflows.identity import contents_of_data, differences, different_contents, plain_recipe, read_identity
from kdiga.workflows.prepare import build_model, build_models

REPORT_EVERY = 10  # least time between result files of unfinished runs, in times what they take
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
        """Bring the result files up to date after a run, unless that took more than a tenth of the time lately."""
        started = time.monotonic()
        if started < board.next_report:
            return
        # Without pictures: drawing takes seconds in which the core could train, and --report draws them when asked.
        self.report(board, data, pictures=False)
        board.next_report = time.monotonic() + REPORT_EVERY * (time.monotonic() - started)

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
    shown = ", ".join(f"{name} {percent(score)}" for name, score in scores.items())
    return f"{shown}, trained in {facts['minutes']:.1f} min"


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
    wanted |= {"seed": evaluation.seed, "version": AUTOATTACK_VERSION}
    most = max((evaluation.examples_of(attack, len(data.test)) for attack in evaluation.attacks), default=0)
    wanted["test images"] = fingerprint_of_images(data.test.take(slice(most)))
    contents = _Contents(board, data)
    for run_spec in board.run_specs:
        folder = board.out / run_spec.folder
        problem = _recipe_problem(run_spec, board, read_config(folder), contents)
        if problem:
            where = f"{run_spec.folder} in {str(board.out)!r}"
            raise InputError(f"{where} {problem}; give another --out, or delete {str(folder)!r}.")
        for which in run_spec.which:
            path = test_file(folder, which)
            there = read_json(path) or {}
            found = {f"images of {name}": len(row) for name, row in there.get("correct", {}).items()}
            compared = {"seed": "seed", "version": "version", "test images": "data_fingerprint"}
            found |= {name: there[key] for name, key in compared.items() if key in there}
            if path.is_file():
                check_same_weights(path, there, read_json(folder / RESULT) or {})
                _check_settings(
                    path,
                    {key: found[key] for key in wanted if key in found},
                    {key: wanted[key] for key in wanted if key in found or key.startswith("images of")},
                    "attacked",
                )
        for measurement in run_spec.after:
            path = folder / measurement.file
            if path.is_file():
                _check_settings(path, (read_json(path) or {})["settings"], measurement.asked, "measured")


class _Contents:
    """The content of what recipes of an experiment name; each model is loaded once."""

    def __init__(self, board: RunBoard, data: DataSet) -> None:
        self.board, self.data = board, data
        self.shared = contents_of_data(data)
        self.weights = dict[str, str | None]()

    def of(self, recipe: Recipe) -> dict[str, str | None]:
        """Return what :func:`kdiga.workflows.identity.contents_of` does, without weights that are unknown."""
        teachers = {f"{key.replace('_', ' ')} weights": self._weights(getattr(recipe, key)) for key in TEACHERS}
        return self.shared | {name: found for name, found in teachers.items() if found is not None}

    def _weights(self, config: ModelConfig | None) -> str | None:
        if config is None or config.is_fresh:
            return None
        if repr(config) not in self.weights:
            own = {str(self.board.out / folder): folder for folder in self.board.by_folder}
            self.weights[repr(config)] = (
                (read_json(Path(config.name) / RESULT) or {}).get("fingerprints", {}).get(config.which)
                if config.name in own
                else fingerprint_of_model(build_model(config, self.data.train))
            )
        return self.weights[repr(config)]


def _recipe_problem(
    run_spec: RunSpec, board: RunBoard, saved: dict[str, Any] | None, contents: _Contents
) -> str | None:
    """Return in words why the run in the folder, made by the recipe ``saved``, is another one; None if it is this."""
    if saved is None:
        return None
    try:
        # Through the reader, so that a key which was added since has its default on both sides.
        there = plain_recipe(recipe_from_dict(saved, origin=str(board.out / run_spec.folder / CONFIG)))
    except InputError as error:
        return f"was made by another version ({str(error).splitlines()[0]})"
    # What it depends on is missing, so it depended on something else.
    later = [name for name in run_spec.needs if not (board.out / name / RESULT).is_file()]
    later += [name for name in run_spec.judged_by if board.state(board.by_folder[name]) not in ENDED]
    if later:
        return f"was run before {later[0]}, which it depends on"
    recipe = chosen_recipe(run_spec, board.trials_of(run_spec), board.out)
    here = plain_recipe(recipe)
    for key in TEACHERS:  # the folder of the experiment may move
        name, old = f"{key}.name", str(there.get(f"{key}.name"))
        if here.get(name) in {str(board.out / folder) for folder in run_spec.needs} and _end(old) == _end(here[name]):
            there[name] = here[name]
    different = differences(there, here)
    different = different or different_contents(read_identity(board.out / run_spec.folder), contents.of(recipe))
    return f"has another configuration: {different}" if different else None


def _end(path: str) -> tuple[str, ...]:
    return Path(path).parts[-2:]


def _check_settings(path: Path, there: Mapping[str, Any], here: Mapping[str, Any], how: str) -> None:
    different = differences(there, here)
    if different:
        # A run that was restored may have no weights.
        weights = any(path.parent.glob("*.safetensors"))
        again = f"the weights are {how} again, not trained again" if weights else "it is trained again"
        raise InputError(
            f"{str(path)!r} has other settings: {different}; give another --out, or delete "
            f"{str(path if weights else path.parent)!r}, and {again}."
        )
