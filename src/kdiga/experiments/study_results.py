"""``study.json``: all that a study has measured so far, from the files of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.experiments.board import FAILURE, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.study import Study
from kdiga.experiments.trials import best_trial, read_trials
from kdiga.results.studies import StudyResult
from kdiga.runs.folder import RESULT, read_config
from kdiga.runs.provenance import provenance

FILE = "study.json"


def collect_study(study: Study, board: RunBoard, data: DataSet) -> dict[str, Any]:
    """Return what ``study.json`` holds.

    Args:
        study: what was asked.
        board: of its cells.
        data: that they share.
    """
    tuning = {label: _tuning(run_specs, board.out) for label, run_specs in study.of("trial").items()}
    first = study.run_specs[0].recipe
    return {
        "title": Path(study.path).stem,
        "command": study.command,
        "data": {"name": data.name, "source": data.source, "training_images": len(data.train)},
        "threat": {"norm": first.threat.norm, "eps": first.threat.eps},
        "attacks": {name: study.evaluation.examples_of(name, len(data.test)) for name in study.evaluation.attacks},
        "which": list(study.evaluation.which),
        "seeds": list(study.seeds),
        "done": board.count(),
        "total": len(board.run_specs),
        "teachers": [_entry(label, run_specs, board) for label, run_specs in study.of("teacher").items()],
        "methods": [
            _entry(label, run_specs, board) | {"tuning": tuning.get(label)}
            for label, run_specs in study.of("method").items()
        ],
        "study": dict(study.given),
        "provenance": provenance(),
    }


def write_study(study: Study, board: RunBoard, data: DataSet) -> dict[str, Any]:
    """Write ``study.json`` and return its content."""
    content = collect_study(study, board, data)
    board.out.mkdir(parents=True, exist_ok=True)
    StudyResult.model_validate(content).write(board.out / FILE, indent=2)
    return content


def _entry(label: str, run_specs: Sequence[RunSpec], board: RunBoard) -> dict[str, Any]:
    runs = [_run(run_spec, board) for run_spec in run_specs]
    recipe = next((run.pop("recipe") for run in runs if run["recipe"]), run_specs[0].recipe.to_dict())
    for run in runs:
        run.pop("recipe", None)
    return {"label": label, "method": run_specs[0].recipe.method.info.name, "recipe": recipe, "runs": runs}


def _run(run_spec: RunSpec, board: RunBoard) -> dict[str, Any]:
    folder = board.out / run_spec.folder
    state = board.state(run_spec)
    result: dict[str, Any] = read_json(folder / RESULT) or {}
    reports = {which: read_json(test_file(folder, which)) for which in run_spec.which}
    failure = read_json(folder / FAILURE) or {}
    return {
        "folder": run_spec.folder,
        "seed": run_spec.recipe.training.seed,
        "status": state,
        "error": None if state in ("open", "done") else failure.get("error") or board.obstacle(run_spec),
        "epochs": result.get("epochs"),
        "best_epoch": result["validation"]["best"]["epoch"] + 1 if result else None,
        "minutes": result.get("minutes"),
        "passes": result.get("passes"),
        "parameters": result.get("parameters", {}).get("student"),
        "validation": {
            which: {key: record[key] for key in ("clean", "robust")}
            for which, record in result.get("validation", {}).items()
        },
        "accuracy": {which: report["accuracy"] for which, report in reports.items() if report},
        "interval_95": {which: report["interval_95"] for which, report in reports.items() if report},
        "notes": {which: report["notes"] for which, report in reports.items() if report and report["notes"]},
        "attack_minutes": round(sum(sum(report["seconds"].values()) for report in reports.values() if report) / 60, 2),
        "date": result.get("provenance", {}).get("date"),
        "hardware": result.get("provenance", {}).get("hardware"),
        "recipe": read_config(folder),
    }


def _tuning(run_specs: Sequence[RunSpec], out: Path) -> dict[str, Any]:
    trials = read_trials(run_specs, out)
    chosen = None if any(trial.status == "open" for trial in trials) else best_trial(trials)
    return {
        "trials": [vars(trial) for trial in trials],
        "chosen": None
        if chosen is None
        else {
            "folder": chosen.folder,
            "coefficients": chosen.coefficients,
            "robust": chosen.best and chosen.best["robust"],
        },
        "minutes": round(sum(trial.minutes or 0.0 for trial in trials), 2),
    }


def describe_outcome(board: RunBoard, folder: str) -> str:
    """Return in a few words what a cell has come to."""
    run = _run(board.by_folder[folder], board)
    if run["status"] != "done":
        return f"{run['status']}: {run['error'].split('. ')[0]}"
    scores = next(iter(run["accuracy"].values()), None) or {"validation PGD": run["validation"]["best"]["robust"]}
    told = ", ".join(f"{name} {score:.1%}" for name, score in scores.items())
    return f"{told}, trained in {run['minutes']:.1f} min"
