"""Robust against clean accuracy over a coefficient, from a pre-trained start: ``kdiga curve``.

Which point answers is decided on validation images: the most robust among those that lose at most so much clean
accuracy. What it gained is told on test images, which had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.experiments.board import ENDED, FAILURE, VALIDATION, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.check import check_folder, check_models
from kdiga.experiments.curve_plan import Confirmation, CurvePlan
from kdiga.experiments.engine import OnWatch, run_board
from kdiga.experiments.run_one import attack_run
from kdiga.experiments.starting_student import validation_attack
from kdiga.io.file_lock import file_lock
from kdiga.report.curve import write_curve_files
from kdiga.results.studies import CurveResult
from kdiga.runs.folder import RESULT, write_result
from kdiga.runs.provenance import provenance
from kdiga.statistics import paired_difference

FILE, CONFIRMED = "curve.json", "best-confirmed.json"


def open_curve(sweep: CurvePlan, data: DataSet, *, since: float = 0.0) -> RunBoard:
    """Check a sweep against its models and its folder, and return its board.

    Args:
        sweep: what was asked.
        data: of the recipe.
        since: see :class:`kdiga.experiments.board.RunBoard`.

    Raises:
        InputError: if a model does not fit, or the folder holds other runs.
    """
    check_models(sweep.run_specs, sweep.out, data)
    board = RunBoard(sweep.run_specs, sweep.out, since)
    check_folder(board, sweep.evaluation, data)
    return board


def run_curve(sweep: CurvePlan, board: RunBoard, data: DataSet, *, workers: int, on_watch: OnWatch) -> dict[str, Any]:
    """Run what is not finished, confirm the answer, and return ``curve.json``'s content.

    Args:
        sweep: what was asked.
        board: of its cells.
        data: of the recipe.
        workers: processes.
        on_watch: told how far it is.

    Raises:
        WorkersEndedError: if all worker processes were killed.
    """

    def on_end() -> None:
        report_curve(sweep, board, data, pictures=False)

    run_board(board, data, sweep.evaluation, workers=workers, on_watch=on_watch, on_end=on_end)
    content = report_curve(sweep, board, data)
    if sweep.confirmation is not None and content["answer"]["settled"]:
        _confirm(sweep, sweep.confirmation, content["answer"]["value"], data)
        content = report_curve(sweep, board, data)
    return content


def report_curve(sweep: CurvePlan, board: RunBoard, data: DataSet, *, pictures: bool = True) -> dict[str, Any]:
    """Write ``curve.json``, table and pictures from what is there, and return the first's content."""
    with file_lock(board.out, "report", wait=True):
        content = collect_curve(sweep, board, data)
        curve = CurveResult.model_validate(content)
        curve.write(board.out / FILE, indent=2)
        write_curve_files(board.out, curve, pictures=pictures)
    return content


def collect_curve(sweep: CurvePlan, board: RunBoard, data: DataSet) -> dict[str, Any]:
    """Return what ``curve.json`` holds.

    Args:
        sweep: what was asked.
        board: of its cells.
        data: of the recipe.
    """
    starts = [_run(sweep, None, seed, board) for seed in sweep.seeds]
    points: list[dict[str, Any]] = [
        {
            "value": value,
            "runs": [_run(sweep, value, seed, board, start) for seed, start in zip(sweep.seeds, starts, strict=True)],
        }
        for value in sweep.values
    ]
    ended = all(board.state(run_spec) in ENDED for run_spec in sweep.run_specs)
    content = {
        "kind": "curve",
        "title": sweep.title,
        "command": sweep.command,
        "key": sweep.key,
        "method": sweep.recipe.method.info.name,
        "student": sweep.recipe.student.name,
        "data": {"name": data.name, "source": data.source, "training_images": len(data.train)},
        "threat": {"norm": sweep.recipe.threat.norm, "eps": sweep.recipe.threat.eps},
        "attacks": {name: sweep.evaluation.examples_of(name, len(data.test)) for name in sweep.evaluation.attacks},
        "validation_attack": validation_attack(sweep.recipe),
        "seeds": list(sweep.seeds),
        "done": board.count(),
        "total": len(board.run_specs),
        "at_most": sweep.at_most,
        "start": {"runs": [_public(run) for run in starts]},
        "points": [point | {"runs": [_public(run) for run in point["runs"]]} for point in points],
        "recipe": sweep.recipe.to_dict(),
        "provenance": provenance(),
    }
    return content | {"answer": answer(content, settled=ended)}


def answer(content: Mapping[str, Any], *, settled: bool) -> dict[str, Any]:
    """Return which point has the most validation robust accuracy at a bounded loss of validation clean accuracy.

    Means over seeds decide; of equally robust points the one that lost less.

    Args:
        content: of ``curve.json``, with start and points.
        settled: whether every run has ended; before that there is no answer.

    Returns:
        "settled", "achieved", "value" (of the coefficient, or None), and "why" there is none.
    """
    nothing = {"settled": settled, "achieved": False, "value": None}
    if not settled:
        return nothing | {"why": "not every run has ended"}
    found = [point for point in content["points"] if all(run["status"] == "done" for run in point["runs"])]
    kept = [point for point in found if -_change(point, "clean") <= content["at_most"] / 100 + 1e-9]
    if not kept:
        return nothing | {"why": f"every point lost more than {content['at_most']:g} points of validation accuracy"}
    best = max(kept, key=lambda point: (_change(point, "robust"), _change(point, "clean")))
    if _change(best, "robust") <= 0:
        return nothing | {"why": "no point that keeps its clean accuracy is more robust on validation images"}
    return {"settled": True, "achieved": True, "value": best["value"], "why": None}


def _change(point: Mapping[str, Any], which: str) -> float:
    """Return the mean over seeds of a point's validation accuracy less the start's."""
    changes = [run["validation_change"][which][0] for run in point["runs"]]
    return sum(changes) / len(changes)


def _run(
    sweep: CurvePlan, value: float | None, seed: int, board: RunBoard, start: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    run_spec = board.by_folder[sweep.folder_of(value, seed)]
    folder = board.out / run_spec.folder
    result: dict[str, Any] = read_json(folder / RESULT) or {}
    test, validation = _measured(test_file(folder, "best")), _measured(folder / VALIDATION)
    confirmed = None
    if sweep.confirmation is not None:
        confirmed = _measured(folder / CONFIRMED, sweep.confirmation)
    failure, state = read_json(folder / FAILURE) or {}, board.state(run_spec)
    run: dict[str, Any] = {
        "folder": run_spec.folder,
        "seed": seed,
        "status": state,
        "error": None if state in ("open", "done") else failure.get("error") or board.obstacle(run_spec),
        "best_epoch": result["validation"]["best"]["epoch"] + 1 if result else None,
        "minutes": result.get("minutes"),
        "date": result.get("provenance", {}).get("date"),
        "hardware": result.get("provenance", {}).get("hardware"),
        "test": test,
        "validation": validation and _named(validation),
        "confirmed": confirmed,
    }
    if start is not None and state == "done" and start["status"] == "done":
        run["test_change"] = _changes(test, start["test"])
        run["validation_change"] = _changes(run["validation"], start["validation"])
        run["confirmed_change"] = _changes(confirmed, start["confirmed"])
    return run


def _measured(path: Path, confirmation: Confirmation | None = None) -> dict[str, Any] | None:
    """Return accuracies, intervals and outcomes of a report; None where there is none, or of another attack."""
    report = read_json(path)
    if report is None:
        return None
    if confirmation is not None and confirmation.attack not in report["correct"]:
        return None
    return {key: report[key] for key in ("accuracy", "interval_95", "correct")}


def _named(report: Mapping[str, Any]) -> dict[str, Any]:
    """Call the one attack on validation images "robust", whatever its steps."""
    return {
        key: {"clean" if attack == "clean" else "robust": value for attack, value in values.items()}
        for key, values in report.items()
    }


def _changes(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> dict[str, list[float]] | None:
    """Return by attack the accuracy now less that before, on the same images, with its paired 95 % interval."""
    if now is None or before is None:
        return None
    pairs = {name: (outcome, before["correct"].get(name)) for name, outcome in now["correct"].items()}
    return {
        name: list(paired_difference(ours, theirs))
        for name, (ours, theirs) in pairs.items()
        if theirs is not None and len(ours) == len(theirs)
    }


def _public(run: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out each image's outcome, which the reports in the run's folder hold."""
    plain = dict(run)
    for key in ("test", "validation", "confirmed"):
        if plain[key] is not None:
            plain[key] = {
                **{name: value for name, value in plain[key].items() if name != "correct"},
                "examples": {name: len(value) for name, value in plain[key]["correct"].items()},
            }
    return plain


def _confirm(sweep: CurvePlan, confirmation: Confirmation, value: float | None, data: DataSet) -> None:
    """Attack the starts and the chosen runs once more, at greater cost; what is there already stays."""
    folders = [sweep.folder_of(one, seed) for seed in sweep.seeds for one in _both(value)]
    run_specs: Sequence[RunSpec] = [run_spec for run_spec in sweep.run_specs if run_spec.folder in folders]
    wanted = confirmation.settings().examples_of(confirmation.attack, len(data.test))
    for run_spec in run_specs:
        folder = sweep.out / run_spec.folder
        with file_lock(sweep.out, f"{run_spec.folder}-confirmed", wait=True):
            there = read_json(folder / CONFIRMED) or {}
            if len(there.get("correct", {}).get(confirmation.attack, ())) != wanted:
                report = attack_run(folder, run_spec.recipe, "best", data, confirmation.settings())
                write_result(folder, report, CONFIRMED)


def _both(value: float | None) -> list[float | None]:
    return [None] if value is None else [None, value]
