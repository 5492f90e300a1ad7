"""An evaluation as asked for on a command line: by one process or several, into a folder that keeps what is done."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdiga.data.image_set import to_pixels
from kdiga.distributed.launch import follow_parent, one_thread
from kdiga.evaluation import Evaluation, attack_by_name, evaluate, sweep
from kdiga.evaluation.evaluate import BATCH_SIZE
from kdiga.evaluation.masking import Finding, check_masking
from kdiga.io.file_lock import file_lock
from kdiga.results.evaluations import EvaluationResult
from kdiga.runs.work_units import FOLDER, OnProgress, ResultCache
from kdiga.types import parse_number
from kdiga.workflows.loaded_model import (
    LoadedModel,
    TestSet,
    check_earlier_result,
    default_folder,
    load_judged_model,
    load_test_set,
    make_folder,
)

FILE = "evaluation.json"
AUTO_SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
# A result file that says the same of these is added to.
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed", "version")
BY_ATTACK = ("accuracy", "interval_95", "seconds", "notes", "stages", "correct")


@dataclass(frozen=True)
class EvaluateRequest:
    """What to measure.

    Args:
        model: a run's folder, a .safetensors file, or an architecture with ``weights``.
        attacks: names.
        data: name of the data set; None is the run's.
        root: folder that holds the data.
        eps: number or fraction; None is the run's.
        norm: "linf" or "l2"; None is the run's.
        examples: only the first so many test images.
        which: "best" or "last" weights of a run.
        weights: state dict to put into a named architecture.
        normalization: of those weights.
        version: of AutoAttack.
        seed: of random starts.
        batch_size: examples attacked, and kept, together.
        device: "auto", "cpu" or "cuda".
        sweep: eps values of a curve, comma-separated numbers or fractions; "auto" spreads them from 0 to
            three times the threat's eps; None measures no curve.
        sweep_attack: attack of the curve.
        checks: whether to look for masked gradients.
        teacher: a run or a .safetensors file, whose adversarial images the checks try on the model; None skips that.
        out: folder of results; None is one in the run's folder, or none.
        overwrite: whether results of something else in that folder may be replaced.
    """

    model: str
    attacks: Sequence[str]
    data: str | None = None
    root: Path | None = None
    eps: str | None = None
    norm: str | None = None
    examples: int | None = None
    which: str = "best"
    weights: Path | None = None
    normalization: str | None = None
    version: str = "standard"
    seed: int = 0
    batch_size: int = BATCH_SIZE
    device: str = "auto"
    sweep: str | None = None
    sweep_attack: str = "pgd-20"
    checks: bool = False
    teacher: str | None = None
    out: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Check what can be checked before anything is loaded.

        Raises:
            InputError: for an unknown attack, or eps values that are no numbers.
        """
        self.sweep_values(1.0)
        for name in (*self.attacks, self.sweep_attack):
            attack_by_name(name, version=self.version)

    def sweep_values(self, eps: float) -> list[float]:
        """Return the eps values of the curve, rising from 0."""
        if self.sweep is None:
            return []
        if self.sweep == "auto":
            return [eps * share for share in AUTO_SWEEP]
        return sorted({0.0, *map(parse_number, self.sweep.split(","))})

    def load(self) -> tuple[LoadedModel, TestSet]:
        """Return the model and what it is judged on."""
        test_set = load_test_set(
            [self.model], data=self.data, root=self.root, eps=self.eps, norm=self.norm, examples=self.examples
        )
        loaded = load_judged_model(
            self.model,
            test_set,
            which=self.which,
            weights=self.weights,
            normalization=self.normalization,
            device=self.device,
        )
        return loaded, test_set

    def folder(self, test_set: TestSet) -> Path | None:
        """Return where results are kept."""
        return self.out or default_folder(self.model, "evaluation", test_set, self.which)


@dataclass(frozen=True)
class EvaluateOutcome:
    """What was measured.

    Args:
        report: of the attacks.
        content: of ``evaluation.json``.
        folder: that holds it; None where none was asked for.
    """

    report: Evaluation
    content: dict[str, Any]
    folder: Path | None


def run_evaluation(
    request: EvaluateRequest, *, workers: int = 1, command: str = "", progress: OnProgress | None = None
) -> EvaluateOutcome:
    """Measure what is asked for, and write ``evaluation.json`` where there is a folder.

    Args:
        request: what.
        workers: processes, this one included, of one thread each if there are several.
        command: how the user asked.
        progress: called with attack, examples done and examples to do.

    Raises:
        InputError: for anything in the request that cannot be had.
    """
    request.check()
    loaded, test_set = request.load()
    folder = request.folder(test_set)
    about = loaded.about | test_set.about() | {"seed": request.seed, "version": request.version}
    identity = {name: about[name] for name in IDENTITY}
    if folder is not None:
        check_earlier_result(folder / FILE, identity, overwrite=request.overwrite)  # refused before the work
        make_folder(folder)
    with _helpers(request, workers if folder is not None else 1):
        report, found = _attack(request, loaded, test_set, folder, progress)
    content = {"kind": "evaluation", "command": command} | about | found
    if folder is not None:
        with file_lock(folder / FOLDER, FILE, wait=True):  # another call, with other attacks, may have ended meanwhile
            content = _joined(
                check_earlier_result(folder / FILE, identity, overwrite=request.overwrite), content, request
            )
            EvaluationResult.model_validate(content).write(folder / FILE)
    return EvaluateOutcome(report, content, folder)


def _joined(old: Mapping[str, Any], content: Mapping[str, Any], request: EvaluateRequest) -> dict[str, Any]:
    """Return what was measured, an earlier call's attacks with it: nothing that was measured is lost."""
    joined = {name: old.get(name, {}) | content[name] for name in BY_ATTACK}
    if not request.checks and old.get("findings"):
        joined["findings"] = old["findings"]
    return {**old, **content, **joined}


def _attack(
    request: EvaluateRequest, loaded: LoadedModel, test_set: TestSet, folder: Path | None, progress: OnProgress | None
) -> tuple[Evaluation, dict[str, Any]]:
    settings: dict[str, Any] = {
        "norm": test_set.threat.norm,
        "seed": request.seed,
        "batch_size": request.batch_size,
        "progress": progress,
        "folder": None if folder is None else folder / FOLDER,
    }
    report = evaluate(
        loaded.model,
        test_set.images.batches(),
        eps=test_set.threat.eps,
        attacks=request.attacks,
        version=request.version,
        **settings,
    )
    found = report.to_dict()
    if values := request.sweep_values(test_set.threat.eps):
        found["sweep"] = sweep(
            loaded.model, test_set.images.batches(), eps_values=values, attack=request.sweep_attack, **settings
        ).to_dict()
    if request.checks:
        findings = _checked(request, loaded, test_set, settings)
        found["findings"] = [finding.to_dict() for finding in findings]
    return report, found


def _checked(
    request: EvaluateRequest, loaded: LoadedModel, test_set: TestSet, settings: Mapping[str, Any]
) -> list[Finding]:
    device = next(loaded.model.parameters()).device
    teacher = None
    if request.teacher is not None:
        teacher = load_judged_model(request.teacher, test_set, role="teacher", device=request.device).model
    return check_masking(
        loaded.model,
        to_pixels(test_set.images.images).to(device),
        test_set.images.labels.to(device),
        threat=test_set.threat,
        seed=request.seed,
        teacher=teacher,
        result_cache=ResultCache(settings["folder"]),
        fingerprint=loaded.about["fingerprint"],
        on_progress=settings["progress"],
    )


@contextmanager
def _helpers(request: EvaluateRequest, workers: int) -> Generator[None]:
    """Let other processes work on the same portions while the block runs."""
    if workers < 2:
        yield
        return
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_help, args=(request,), daemon=True) for _ in range(workers - 1)]
    with one_thread():
        for process in processes:
            process.start()
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _help(request: EvaluateRequest) -> None:
    follow_parent()
    torch.set_num_threads(1)
    loaded, test_set = request.load()
    _attack(request, loaded, test_set, request.folder(test_set), None)
