"""``kdiga claims``: the paper's claims, each tested on real models by a rule that is fixed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.data import DataSet
from kdiga.errors import InputError
from kdiga.experiments.board import ENDED, RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.claims.evidence import RULE, Evidence
from kdiga.experiments.claims.judges import judge_all
from kdiga.experiments.claims.plan import ClaimsGrid, ClaimsReader
from kdiga.experiments.claims.run_records import WEIGHTS, RunRecords, default_records, validation_history
from kdiga.experiments.experiment import Experiment, run_facts
from kdiga.experiments.run_one import save_start_weights
from kdiga.experiments.sections import COSTLY
from kdiga.experiments.trials import best_trial, coefficients, least_clean, read_trials
from kdiga.recipes.source import CLAIMS, read_source
from kdiga.report.claims import write_claims
from kdiga.results.attack_names import attack_name
from kdiga.results.shared import command_of
from kdiga.results.studies import ClaimsResult
from kdiga.runs.provenance import provenance
from kdiga.runs.run_folder import RESULT
from kdiga.statistics import clopper_pearson, percent

FILE = "claims.json"


@dataclass(frozen=True)
class Claims(Experiment):
    """A test of the claims, checked; ``given`` is the content of the recipe, overrides applied."""

    given: Mapping[str, Any]
    grid: ClaimsGrid
    records: RunRecords
    despite_findings: bool

    def check(self, board: RunBoard, data: DataSet, *, look_only: bool) -> None:
        """Restore the runs that have a record, and check the folder."""
        if not look_only:
            self.records.restore(board)
            for run_spec in board.run_specs:
                folder = board.out / run_spec.folder
                # Records of given models leave their weights out; other runs learn from them.
                if run_spec.kind == "start" and (folder / RESULT).is_file() and not (folder / WEIGHTS).is_file():
                    save_start_weights(run_spec.recipe, folder, data)
        try:
            super().check(board, data, look_only=look_only)
        except InputError as error:
            folder = str(self.records.folder)
            raise InputError(f"{error} The records in {folder!r} may be another recipe's, too.") from None

    def run(self, board: RunBoard, data: DataSet, **options: Any) -> dict[str, Any]:
        """See :meth:`kdiga.experiments.experiment.Experiment.run`; teachers that have ended are checked first."""
        self.after_run(board, data)
        return super().run(board, data, **options)

    def after_run(self, board: RunBoard, data: DataSet) -> None:
        """Record what has ended, and check that every teacher that has ended is robust."""
        self.records.write(board)
        if not self.despite_findings:
            check_teachers_robust(self.grid, board, data)

    def shown_state(self, board: RunBoard, run_spec: RunSpec) -> str:
        """Return the state of a run in a dry run's list: "finished" for a run with a record."""
        return "finished" if self.records.holds(run_spec) else board.state(run_spec)

    def finish(self, board: RunBoard, data: DataSet, content: dict[str, Any]) -> dict[str, Any]:
        """Record what another process has finished at the end."""
        self.records.write(board)
        return content

    def write(self, board: RunBoard, data: DataSet, *, pictures: bool) -> dict[str, Any]:
        """Judge the claims by what is there, and write ``claims.json`` and the page; return the first's content."""
        grid = self.grid
        content = self.about(board, data) | {
            "seeds": list(grid.seeds),
            "methods": dict(grid.methods),
            "judged": list(grid.judged),
            "pairs": [vars(pair) for pair in grid.pairs],
            "rules": vars(grid.rules) | {"claim": RULE},
            "certify": vars(grid.certify),
            "explain": vars(grid.explain),
            "runs": [_run(run_spec, board) for run_spec in board.run_specs if run_spec.kind != "trial"],
            "coefficients": _coefficients(board),
            "claims": judge_all(Evidence(grid, board, data.test)),
            "recipe": dict(self.given),
            "provenance": provenance(),
        }
        result = ClaimsResult.model_validate(content)
        result.write(board.out / FILE, indent=2)
        write_claims(result, board.out / "claims.md")
        return content


def _run(run_spec: RunSpec, board: RunBoard) -> dict[str, Any]:
    report = read_json(test_file(board.out / run_spec.folder, "best")) or {}
    facts = run_facts(run_spec, board)
    shared = ("folder", "seed", "status", "error", "parameters", "epochs", "minutes", "passes", "date", "hardware")
    return {key: facts[key] for key in shared} | {
        "label": run_spec.label,
        "kind": run_spec.kind,
        "model": run_spec.recipe.student.name,
        "attack_minutes": round(sum(report.get("seconds", {}).values()) / 60, 2),
        "accuracy": report.get("accuracy"),
        "interval_95": report.get("interval_95"),
        "notes": report.get("notes") or None,
        "history": validation_history(board.out / run_spec.folder),
    }


def _coefficients(board: RunBoard) -> list[dict[str, Any]]:
    """Return for each search its trials, the chosen one, and its validation accuracy."""
    searches = {one.trials: one for one in reversed(board.run_specs) if one.kind == "method" and one.trials}
    found = list[dict[str, Any]]()
    for names, run_spec in reversed(searches.items()):
        trials = read_trials(board.trials_of(run_spec), board.out)
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


def check_teachers_robust(grid: ClaimsGrid, board: RunBoard, data: DataSet) -> None:
    """Check that every teacher that has ended is robust: more than chance, with 95 % confidence."""
    problems = list[str]()
    for name in dict.fromkeys(pair.teacher for pair in grid.pairs):
        run_spec = board.by_folder[f"teachers/{name}"]
        state = board.state(run_spec)
        if state == "done":
            report = read_json(test_file(board.out / run_spec.folder, "best")) or {}
            problems += _not_robust(name, report["correct"][COSTLY], report["threat"], 1 / len(data.test.classes))
        elif state != "open":
            problems.append(f"teacher {name} {state}: {board.error(run_spec) or 'it has no result'}")
    if problems:
        raise InputError("\n".join(problems))


def _not_robust(name: str, correct: Sequence[bool], threat: Mapping[str, Any], chance: float) -> list[str]:
    low, high = clopper_pearson(sum(correct), len(correct))
    if low > chance:
        return []
    return [
        f"teacher {name} is not robust: {percent(sum(correct) / len(correct))} of {len(correct)} test images (95 % "
        f"interval {percent(low)} to {percent(high)}) withstand {attack_name(COSTLY)} at {threat['norm']} "
        f"eps {threat['eps']:.4g}, and chance is {percent(chance, 0)}; give a robust one, or continue with "
        "--despite-findings."
    ]


def load_claims(
    path: str | Path,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    records: Path | None = None,
    *,
    despite_findings: bool = False,
) -> Claims:
    """Read a claims recipe from a path or a name.

    Without ``out`` everything goes to ``runs/<file's stem>``, without ``records`` finished runs to the recipe's own
    folder.

    Raises:
        InputError: With every problem, each with its line.
    """
    folder = out or Path("runs") / Path(path).stem
    reader = ClaimsReader(read_source(path, overrides, CLAIMS), folder)
    grid = reader.grid()
    return Claims(
        title=Path(path).stem,
        command=command_of("claims", path, out=out, records=records, set=list(overrides)),
        out=folder,
        evaluation=grid.evaluation,
        run_specs=tuple(reader.run_specs(grid)),
        given=reader.source.data,
        grid=grid,
        records=RunRecords(records or default_records(Path(path))),
        despite_findings=despite_findings,
    )
