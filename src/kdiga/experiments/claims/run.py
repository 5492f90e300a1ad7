"""A test of the claims from its runs to its verdicts, in pieces if need be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.errors import InputError, KdigaError
from kdiga.evaluation import clopper_pearson
from kdiga.experiments.board import FAILURE, RunBoard, read_json, test_file
from kdiga.experiments.check import check_folder, check_models
from kdiga.experiments.claims.collect import collect_claims
from kdiga.experiments.claims.plan import Claims
from kdiga.experiments.claims.records import WEIGHTS, RunRecords
from kdiga.experiments.engine import BoardProgress, OnWatch, run_board
from kdiga.experiments.settings import COSTLY
from kdiga.experiments.starting_student import save_start
from kdiga.io.file_lock import file_lock
from kdiga.report.claims import write_claims
from kdiga.results.attack_names import attack_name
from kdiga.results.studies import ClaimsResult
from kdiga.runs.folder import RESULT

FILE = "claims.json"


class TimeUpError(KdigaError):
    """The time that was given is over; what runs has saved where it is."""

    exit_status = 0


def open_claims(claims: Claims, data: DataSet, kept: RunRecords, *, since: float, look_only: bool = False) -> RunBoard:
    """Bring back what was finished before, check everything, and return the board.

    Args:
        claims: what is tested.
        data: that the runs share.
        kept: records of finished runs.
        since: see :class:`kdiga.experiments.board.RunBoard`.
        look_only: leave the folder as it is.

    Raises:
        InputError: if a model does not fit, or a folder or record holds another recipe's runs.
    """
    check_models(claims.run_specs, claims.out, data)
    board = RunBoard(claims.run_specs, claims.out, since)
    if not look_only:
        kept.restore(board)
        for run_spec in board.run_specs:
            folder = board.out / run_spec.folder
            # Records of models that are given leave their weights out; others learn from them.
            if run_spec.kind == "start" and (folder / RESULT).is_file() and not (folder / WEIGHTS).is_file():
                save_start(run_spec.recipe, folder, data)
    try:
        check_folder(board, claims.evaluation, data)
    except InputError as error:
        raise InputError(f"{error} What is kept in {str(kept.folder)!r} may be another recipe's, too.") from None
    return board


def run_claims(
    claims: Claims,
    board: RunBoard,
    data: DataSet,
    kept: RunRecords,
    *,
    workers: int,
    on_watch: OnWatch,
    despite_findings: bool = False,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Run what is not finished and return ``claims.json``'s content.

    Args:
        claims: what is tested.
        board: of its cells.
        data: that they share.
        kept: where finished runs are kept.
        workers: processes.
        on_watch: told how far it is.
        despite_findings: go on with a teacher that is not robust.
        minutes: after which it ends, its runs saved; None for no end.

    Raises:
        InputError: if a teacher is not robust.
        WorkersEndedError: if all worker processes were killed.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def watched(watch: BoardProgress) -> None:
        on_watch(watch)
        if deadline is not None and time.monotonic() > deadline:
            raise TimeUpError

    def on_end() -> None:
        kept.keep(board)
        if not despite_findings:
            check_teachers_robust(claims, board, data)

    try:
        on_end()
        run_board(
            board,
            data,
            claims.evaluation,
            workers=workers,
            on_watch=watched,
            on_end=on_end,
            apart=deadline is not None,
        )
    except TimeUpError:
        kept.keep(board)
    return report_claims(claims, board, data)


def check_teachers_robust(claims: Claims, board: RunBoard, data: DataSet) -> None:
    """Check that every teacher that has ended has robustness to pass on: more than chance, with 95 % confidence.

    Raises:
        InputError: naming those that have none, with what was measured.
    """
    told = list[str]()
    for name in dict.fromkeys(pair.teacher for pair in claims.pairs):
        run_spec = board.by_folder[f"teachers/{name}"]
        state, folder = board.state(run_spec), board.out / run_spec.folder
        if state == "done":
            report = read_json(test_file(folder, "best")) or {}
            told += _not_robust(name, report["correct"][COSTLY], report["threat"], 1 / len(data.test.classes))
        elif state != "open":
            failure = read_json(folder / FAILURE) or {}
            told.append(f"teacher {name} {state}: {failure.get('error', 'it has no result')}")
    if told:
        raise InputError("\n".join(told))


def _not_robust(name: str, correct: Sequence[bool], threat: Mapping[str, Any], chance: float) -> list[str]:
    low, high = clopper_pearson(sum(correct), len(correct))
    if low > chance:
        return []
    return [
        f"teacher {name} is not robust: {sum(correct) / len(correct):.1%} of {len(correct)} test images (95 % interval "
        f"{low:.1%} to {high:.1%}) withstand {attack_name(COSTLY)} at {threat['norm']} eps {threat['eps']:.4g}, and "
        f"chance is {chance:.0%}; give a robust one, or go on all the same with --despite-findings."
    ]


def report_claims(claims: Claims, board: RunBoard, data: DataSet) -> dict[str, Any]:
    """Judge the claims by what is there, write ``claims.json`` and the page, and return the first's content."""
    with file_lock(board.out, "report", wait=True):
        content = collect_claims(claims, board, data)
        board.out.mkdir(parents=True, exist_ok=True)
        result = ClaimsResult.model_validate(content)
        result.write(board.out / FILE, indent=2)
        write_claims(result, board.out / "claims.md")
    return content


def default_kept(recipe: Path) -> Path:
    """Return where finished runs are kept: beside the recipe."""
    return recipe.with_suffix(".cells")
