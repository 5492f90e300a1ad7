"""From a claims recipe to cells: teachers, students and methods crossed, everything wrong with them told at once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError
from kdiga.experiments.board import RunSpec
from kdiga.experiments.claims.grid import Grid, Pair
from kdiga.experiments.claims.layout import WHICH, Layout
from kdiga.experiments.claims.records import record_name
from kdiga.experiments.claims.settings import Certification, Coefficients, Explaining, Rules
from kdiga.experiments.settings import COSTLY, EvaluateSettings, check_keys, read_section
from kdiga.recipes.source import CLAIMS, YamlSource, read_source

TOP = [
    "data",
    "threat",
    "training",
    "teachers",
    "students",
    "pairs",
    "pretrained",
    "methods",
    "judged",
    "seeds",
    "evaluate",
    "tune",
    "certify",
    "explain",
    "rules",
]


@dataclass(frozen=True)
class Claims:
    """A test of the claims, checked.

    Args:
        path: of its file.
        command: that runs it again.
        out: folder for everything.
        given: what the file says, overrides applied.
        methods: by label, the method's name.
        judged: labels of the methods whose claims are tested, the paper's own first.
        pairs: of teacher and student.
        seeds: of every student.
        evaluation: how every model is attacked.
        tune: the search for coefficients, or None.
        certify: how radii are found.
        explain: how bounds are measured.
        rules: what decides a verdict.
        run_specs: every run, in the order in which they are worth running.
    """

    path: str
    command: str
    out: Path
    given: Mapping[str, Any]
    methods: Mapping[str, str]
    judged: tuple[str, ...]
    pairs: tuple[Pair, ...]
    seeds: tuple[int, ...]
    evaluation: EvaluateSettings
    tune: Coefficients | None
    certify: Certification
    explain: Explaining
    rules: Rules
    run_specs: tuple[RunSpec, ...]

    def label_of(self, method: str) -> str:
        """Return the label of a method that is neither judged nor configured, such as kd."""
        return next(label for label, name in self.methods.items() if name == method)


def load_claims(
    path: str | Path, out: Path | None = None, overrides: Sequence[str] = (), kept: Path | None = None
) -> Claims:
    """Read a claims recipe.

    Args:
        path: of a YAML file.
        out: folder for everything; None for ``runs/<file's stem>``.
        overrides: such as ``training.epochs=2``.
        kept: folder of finished runs' records, where it is another than the recipe's own; for the command alone.

    Raises:
        InputError: with every problem, each with its line.
    """
    folder = out or Path("runs") / Path(path).stem
    settings = [part for override in overrides for part in ("--set", override)]
    command = shlex.join(["kdiga", "claims", str(path), *_given("--out", out), *_given("--kept", kept), *settings])
    source = read_source(path, overrides, CLAIMS)
    if "base" in source.data or "method" in source.data:
        other = "study" if "base" in source.data else "train"
        raise InputError(f"{str(path)!r} is no claims recipe; run it with `kdiga {other}`.")
    problems = list[str]()
    check_keys(source, (), source.data, TOP, problems)
    evaluation, tune, certify, explain, rules = (
        read_section(source, name, kind, problems)
        for name, kind in (
            ("evaluate", EvaluateSettings),
            ("tune", Coefficients),
            ("certify", Certification),
            ("explain", Explaining),
            ("rules", Rules),
        )
    )
    grid = Grid.read(source, problems)
    _stop(problems)
    attacked, searched = cast("EvaluateSettings", evaluation), cast("Coefficients", tune)
    explained = cast("Explaining", explain)
    _check_evaluation(source, attacked, explained)
    layout = Layout(source, folder, grid, attacked, searched if "tune" in source.data else None, problems)
    run_specs = layout.run_specs(cast("Certification", certify), explained)
    _check_folders(source, run_specs, problems)
    _stop(problems)
    return Claims(
        str(path),
        command,
        folder,
        source.data,
        layout.methods,
        grid.judged,
        grid.pairs,
        grid.seeds,
        attacked,
        layout.tune,
        cast("Certification", certify),
        explained,
        cast("Rules", rules),
        tuple(run_specs),
    )


def _given(option: str, path: Path | None) -> list[str]:
    return [] if path is None else [option, str(path)]


def _check_evaluation(source: YamlSource, evaluation: EvaluateSettings, explain: Explaining) -> None:
    if COSTLY not in evaluation.attacks or "clean" not in evaluation.attacks:
        raise InputError(
            f"evaluate.attacks was {', '.join(evaluation.attacks)}; a verdict rests on clean and autoattack."
        )
    if "which" in (source.data.get("evaluate") or {}) and evaluation.which != WHICH:
        raise InputError(
            f"evaluate.which was {', '.join(evaluation.which)}; a verdict rests on the best weights by validation; "
            "leave it out."
        )
    seen = evaluation.autoattack_examples or evaluation.examples
    if seen is not None and seen < explain.examples:
        raise InputError(
            f"explain.examples was {explain.examples} and AutoAttack sees {seen} test images; the bounds are held "
            "against it, so explain no more images than it sees."
        )


def _check_folders(source: YamlSource, run_specs: Sequence[RunSpec], problems: list[str]) -> None:
    """Note runs whose folders or records would be one, on systems that do not tell capitals from small letters, too."""
    seen: dict[str, RunSpec] = {}
    for run_spec in run_specs:
        other = seen.setdefault(record_name(run_spec).lower(), run_spec)
        if other is not run_spec:
            problems.append(
                source.problem(
                    ("methods",),
                    f"{other.folder}, of {other.label}, and {run_spec.folder}, of {run_spec.label}, would be one "
                    "folder or record; rename one",
                )
            )
            return


def _stop(problems: Sequence[str]) -> None:
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
