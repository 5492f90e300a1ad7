"""``claims.json``: what was run, what came out, and the verdicts; all that the page is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.experiments.board import ENDED, FAILURE, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.claims.evidence import Evidence
from kdiga.experiments.claims.judge_bounds import judge_bounds
from kdiga.experiments.claims.judge_certified import judge_certified
from kdiga.experiments.claims.judge_preserving import judge_kd, judge_transfer
from kdiga.experiments.claims.judge_pretrained import judge_pretrained
from kdiga.experiments.claims.plan import Claims
from kdiga.experiments.claims.verdicts import RULE, counted, overall
from kdiga.experiments.trials import best_trial, coefficients, least_clean, read_trials
from kdiga.runs.folder import RESULT
from kdiga.runs.provenance import provenance


def collect_claims(claims: Claims, board: RunBoard, data: DataSet) -> dict[str, Any]:
    """Return what ``claims.json`` holds.

    Args:
        claims: what is tested.
        board: of its cells.
        data: that they share.
    """
    recipe = claims.run_specs[0].recipe
    return {
        "title": Path(claims.path).stem,
        "command": claims.command,
        "data": {"name": data.name, "source": data.source, "training_images": len(data.train)},
        "threat": {"norm": recipe.threat.norm, "eps": recipe.threat.eps},
        "attacks": {name: claims.evaluation.examples_of(name, len(data.test)) for name in claims.evaluation.attacks},
        "seeds": list(claims.seeds),
        "methods": dict(claims.methods),
        "judged": list(claims.judged),
        "pairs": [vars(pair) for pair in claims.pairs],
        "rules": vars(claims.rules) | {"claim": RULE},
        "certify": vars(claims.certify),
        "explain": vars(claims.explain),
        "done": board.count(),
        "total": len(board.run_specs),
        "runs": [_run(run_spec, board) for run_spec in board.run_specs if run_spec.kind != "trial"],
        "coefficients": _coefficients(claims, board),
        "claims": _judged(claims, board, data),
        "recipe": dict(claims.given),
        "provenance": provenance(),
    }


def _judged(claims: Claims, board: RunBoard, data: DataSet) -> dict[str, Any]:
    evidence = Evidence(claims, board, len(data.test))
    fresh = [pair for pair in claims.pairs if not pair.pretrained]
    found = {
        "a": judge_kd(evidence, fresh),
        "b": judge_transfer(evidence, fresh),
        "c": judge_pretrained(evidence, [pair for pair in claims.pairs if pair.pretrained]),
        "d": judge_certified(evidence, fresh),
        "e": judge_bounds(evidence, fresh),
    }
    return {name: _verdicts(claim) for name, claim in found.items()}


def _verdicts(claim: dict[str, Any]) -> dict[str, Any]:
    """Add each judged method's verdict, and the claim's, which is that of the first: the paper's own."""
    if "verdicts" in claim:
        words = claim["verdicts"]
        return claim | {"verdict": words[claim["methods"][0]]}
    cases = {label: [row["verdict"] for row in claim["rows"] if row["method"] == label] for label in claim["methods"]}
    words = {label: overall(found) for label, found in cases.items()}
    counts = {label: counted(found) for label, found in cases.items()}
    return claim | {"verdicts": words, "counts": counts, "verdict": words[claim["methods"][0]]}


def _run(run_spec: RunSpec, board: RunBoard) -> dict[str, Any]:
    folder, state = board.out / run_spec.folder, board.state(run_spec)
    result: Mapping[str, Any] = read_json(folder / RESULT) or {}
    report = read_json(test_file(folder, "best")) or {}
    failure = read_json(folder / FAILURE) or {}
    return {
        "folder": run_spec.folder,
        "label": run_spec.label,
        "kind": run_spec.kind,
        "seed": run_spec.recipe.training.seed,
        "model": run_spec.recipe.student.name,
        "status": state,
        "error": None if state in ("open", "done") else failure.get("error") or board.obstacle(run_spec),
        "parameters": result.get("parameters", {}).get("student"),
        "epochs": result.get("epochs"),
        "minutes": result.get("minutes"),
        "attack_minutes": round(sum(report.get("seconds", {}).values()) / 60, 2),
        "passes": result.get("passes"),
        "accuracy": report.get("accuracy"),
        "interval_95": report.get("interval_95"),
        "notes": report.get("notes") or None,
        "date": result.get("provenance", {}).get("date"),
        "hardware": result.get("provenance", {}).get("hardware"),
    }


def _coefficients(claims: Claims, board: RunBoard) -> list[dict[str, Any]]:
    """Return for each search what was tried, chosen, and how well it did on validation images."""
    found = list[dict[str, Any]]()
    searches = {
        run_spec.trials: run_spec
        for run_spec in reversed(claims.run_specs)
        if run_spec.kind == "method" and run_spec.trials
    }
    for names, run_spec in reversed(searches.items()):
        trials = read_trials([board.by_folder[name] for name in names], board.out)
        entry: dict[str, Any] = {
            "method": run_spec.label,
            "search": names[0].rpartition("/")[0],
            "trials": [vars(trial) for trial in trials],
            "chosen": None,
            "given": coefficients(run_spec.recipe.method),
        }
        if all(board.state(board.by_folder[name]) in ENDED for name in run_spec.judged_by):
            least = least_clean(run_spec, board.out)
            best = best_trial(trials, least)
            entry |= {"chosen": best.folder, "coefficients": best.coefficients, "best": best.best, "least_clean": least}
        found.append(entry)
    return found
