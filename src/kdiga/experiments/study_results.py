"""``study.json``: all that a study has measured so far, from the files of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.experiments.board import FAILURE, Board, Cell, read_json, test_file
from kdiga.experiments.study import Study
from kdiga.experiments.trials import best_trial, read_trials
from kdiga.runs.folder import RESULT, read_config, write_result
from kdiga.runs.provenance import provenance

FILE = "study.json"


def collect(study: Study, board: Board, data: DataSet) -> dict[str, Any]:
    """Return what ``study.json`` holds.

    Args:
        study: what was asked.
        board: of its cells.
        data: that they share.
    """
    tuning = {label: _tuning(cells, board.out) for label, cells in study.of("trial").items()}
    first = study.cells[0].recipe
    return {
        "title": Path(study.path).stem,
        "command": study.command,
        "data": {"name": data.name, "source": data.source, "training_images": len(data.train)},
        "threat": {"norm": first.threat.norm, "eps": first.threat.eps},
        "attacks": {name: study.evaluation.examples_of(name, len(data.test)) for name in study.evaluation.attacks},
        "which": list(study.evaluation.which),
        "seeds": list(study.seeds),
        "done": board.count(),
        "total": len(board.cells),
        "teachers": [_entry(label, cells, board) for label, cells in study.of("teacher").items()],
        "methods": [
            _entry(label, cells, board) | {"tuning": tuning.get(label)} for label, cells in study.of("method").items()
        ],
        "study": dict(study.given),
        "provenance": provenance(),
    }


def write_study(study: Study, board: Board, data: DataSet) -> dict[str, Any]:
    """Write ``study.json`` and return its content."""
    content = collect(study, board, data)
    board.out.mkdir(parents=True, exist_ok=True)
    write_result(board.out, content, FILE)
    return content


def _entry(label: str, cells: Sequence[Cell], board: Board) -> dict[str, Any]:
    runs = [_run(cell, board) for cell in cells]
    recipe = next((run.pop("recipe") for run in runs if run["recipe"]), cells[0].recipe.to_dict())
    for run in runs:
        run.pop("recipe", None)
    return {"label": label, "method": cells[0].recipe.method.info.name, "recipe": recipe, "runs": runs}


def _run(cell: Cell, board: Board) -> dict[str, Any]:
    folder = board.out / cell.folder
    state = board.state(cell)
    result: dict[str, Any] = read_json(folder / RESULT) or {}
    reports = {which: read_json(test_file(folder, which)) for which in cell.which}
    failure = read_json(folder / FAILURE) or {}
    return {
        "folder": cell.folder,
        "seed": cell.recipe.training.seed,
        "status": state,
        "error": None if state in ("open", "done") else failure.get("error") or board.obstacle(cell),
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


def _tuning(cells: Sequence[Cell], out: Path) -> dict[str, Any]:
    trials = read_trials(cells, out)
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


def in_words(board: Board, folder: str) -> str:
    """Return in a few words what a cell has come to."""
    run = _run(board.by_folder[folder], board)
    if run["status"] != "done":
        return f"{run['status']}: {run['error'].split('. ')[0]}"
    scores = next(iter(run["accuracy"].values()), None) or {"validation PGD": run["validation"]["best"]["robust"]}
    told = ", ".join(f"{name} {score:.1%}" for name, score in scores.items())
    return f"{told}, trained in {run['minutes']:.1f} min"
