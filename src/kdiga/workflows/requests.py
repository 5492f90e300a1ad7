"""What users ask of the workflows: one frozen dataclass a command, of plain data, without PyTorch.

Command lines are made from these fields; see :mod:`kdiga.workflows.options`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdiga.workflows.options import (
    DATA_SETS,
    MODELS,
    DryRun,
    ModelName,
    Option,
    comma_separated,
    comma_separated_or_none,
)

Examples = Annotated[int, Option("Use only the first N test images.", least=1)]
Restarts = Annotated[int, Option("Number of random starts of each search for the worst image in the ball.", least=1)]
# The norms of attacks; certificates and explanations have no l1.
AttackNorm = Annotated[str | None, Option("linf, l2 or l1. Default: the run's, else linf.", names=("linf", "l2", "l1"))]


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Which weights of a model, on which data, on which device."""

    data: Annotated[str | None, Option("Data set. Default: the run's.", names=DATA_SETS)] = None
    root: Annotated[Path | None, Option("Folder with the data.")] = None
    weights: Annotated[Path | None, Option("State dict to load into a named architecture.")] = None
    normalization: Annotated[
        str | None,
        Option(
            "none, imagenet, cifar10, cifar10-per-image, half or '[[MEAN, ...], [DEVIATION, ...]]', with --weights.",
            names=("none", "imagenet", "cifar10", "cifar10-per-image", "half"),
        ),
    ] = None
    which: Annotated[str, Option("best or last weights of a run.", names=("best", "last"))] = "best"
    device: Annotated[str, Option("auto, cpu or cuda.", names=("auto", "cpu", "cuda"))] = "auto"


@dataclass(frozen=True, kw_only=True)
class JudgeRequest(ModelRequest):
    """A question about models on test images under one threat model, with an answer in a folder."""

    examples: Annotated[int | None, Option("Use only the first N test images. Default: all.")] = None
    eps: Annotated[str | None, Option("Radius of the ball, pixels in [0, 1]: 8/255. Default: the run's.")] = None
    norm: Annotated[str | None, Option("linf or l2. Default: the run's, else linf.", names=("linf", "l2"))] = None
    seed: Annotated[int, Option("Random seed.")] = 0
    out: Annotated[Path | None, Option("Folder of the results and of finished work. Default: in the run folder.")] = (
        None
    )
    overwrite: Annotated[bool, Option("Replace results of other settings in the folder.")] = False


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(JudgeRequest):
    """Attacks on a model."""

    model: ModelName
    norm: AttackNorm = None
    attacks: Annotated[
        Sequence[str],
        Option(
            "Comma-separated: clean, fgsm, pgd-STEPS, cw-STEPS, pgd-STEPSxRESTARTS, autoattack.",
            names=("clean", "fgsm", "pgd-20", "cw-20", "autoattack"),
            read=comma_separated,
        ),
    ] = ("clean", "fgsm", "pgd-20", "autoattack")
    sweep: Annotated[
        str | None, Option("Also measure accuracy at these eps; `auto`: 0 to 3 eps.", metavar="EPS,EPS,...")
    ] = None
    sweep_attack: Annotated[str, Option("Attack of the sweep.")] = "pgd-20"
    corruptions: Annotated[bool, Option("Also measure accuracy under common corruptions at severity 1 to 5.")] = False
    checks: Annotated[
        bool | None,
        Option(
            "Check for masked gradients. Default: with autoattack or --transfer-from.", flags=("--checks/--no-checks",)
        ),
    ] = None
    teacher: Annotated[str | None, Option("Run whose adversarial images the transfer check uses.")] = None
    transfer_from: Annotated[
        Sequence[str],
        Option("A model whose adversarial images the transfer check uses as well; repeat it for more.", names=MODELS),
    ] = ()
    version: Annotated[str, Option("Version of AutoAttack: standard, plus, rand.")] = "standard"
    batch_size: Annotated[int, Option("Number of examples in one work unit.", least=1)] = 500
    workers: Annotated[int, Option("Number of processes that share the work, one thread each.", least=1)] = 1

    @property
    def checks_masking(self) -> bool:
        """Whether to check for masked gradients."""
        if self.checks is not None:
            return self.checks
        return bool(self.transfer_from) or any(name.lower() == "autoattack" for name in self.attacks)


@dataclass(frozen=True, kw_only=True)
class CertifyRequest(JudgeRequest):
    """Certificates of a model, against those of its teacher if one is given."""

    model: ModelName
    against: Annotated[
        str | None, Option("Compare with this run or .safetensors file, example by example.", metavar="TEACHER")
    ] = None
    method: Annotated[
        Sequence[str],
        Option(
            "Comma-separated: clever (estimate), smoothing (confidence), interval (proof).",
            names=("clever", "smoothing", "interval"),
            read=comma_separated,
        ),
    ] = ("clever", "smoothing")
    examples: Examples = 100
    norm: Annotated[
        str | None,
        Option("linf or l2. Default: the run's, else linf. Smoothing is always l2.", names=("linf", "l2")),
    ] = None
    max_radius: Annotated[str | None, Option("Largest radius of clever and interval. Default: eps.")] = None
    clever_batches: Annotated[int, Option("Number of batches of random points; each gives one maximum.")] = 100
    clever_batch_size: Annotated[int, Option("Number of random points in a batch.")] = 25
    sigma: Annotated[float, Option("Standard deviation of the smoothing noise, pixels in [0, 1].")] = 0.25
    samples: Annotated[int, Option("Number of noisy images for the probability bound.")] = 1000
    selection_samples: Annotated[int, Option("Number of noisy images that select the class.")] = 100
    alpha: Annotated[float, Option("Failure probability of the smoothing certificate, per example.")] = 0.001
    radius: Annotated[
        str | None, Option("L2 radii at which accuracy is shown. Default: from sigma.", metavar="R,R,...")
    ] = None


@dataclass(frozen=True, kw_only=True)
class SuitableRequest(JudgeRequest):
    """Measurements of a teacher before any training."""

    teacher: ModelName
    examples: Examples = 500
    restarts: Restarts = 3


@dataclass(frozen=True, kw_only=True)
class ExplainRequest(JudgeRequest):
    """How much of a teacher's robustness went into its students, and why."""

    teacher: ModelName
    students: Annotated[Sequence[str], Option("Run folders or .safetensors files.", argument=True)]
    examples: Examples = 200
    attack: Annotated[str, Option("Attack that measures robust accuracy: autoattack, or pgd-40.")] = "autoattack"
    restarts: Restarts = 3
    out: Annotated[Path, Option("Folder of explanation.json, its pictures and finished work units.")] = Path(
        "runs/explain"
    )
    pictures: Annotated[int, Option("Number of examples with stored gradients and worst images.", least=0)] = 6


@dataclass(frozen=True, kw_only=True)
class ExportRequest(JudgeRequest):
    """Files of a model for other programs, and their measurements."""

    model: ModelName
    norm: AttackNorm = None
    to: Annotated[
        Sequence[str],
        Option(
            "Comma-separated: onnx, torch-export, safetensors, hf.",
            metavar="FORMAT,FORMAT,...",
            names=("onnx", "torch-export", "safetensors", "hf"),
            read=comma_separated,
        ),
    ]
    out: Annotated[Path | None, Option("Folder of the files. Default: export/WHICH in the run folder.")] = None
    int8: Annotated[bool, Option("Also quantise the ONNX file to int8, for phones.")] = False
    calibration: Annotated[int, Option("Number of training images that set the scales of int8.")] = 256
    examples: Annotated[int, Option("Use only the first N test images.")] = 1000
    transfer: Annotated[
        Sequence[str],
        Option(
            "Attacks on the model, tried on the files: pgd-STEPS, cw-STEPS, autoattack; none.",
            read=comma_separated_or_none,
        ),
    ] = ("pgd-40", "cw-40")
    score_examples: Annotated[int, Option("Number of test images that Square attacks, the first ones.")] = 200
    queries: Annotated[int, Option("Number of queries of Square, per image; 0 leaves it out.")] = 5000


@dataclass(frozen=True, kw_only=True)
class InspectRequest(ModelRequest):
    """A description of a model, and whether it fits its data."""

    model: Annotated[
        str,
        Option(
            "An architecture, timm:NAME, torchvision:NAME, robustbench:DATASET/THREAT/NAME, hf-hub:ORG/NAME, "
            "zoo:NAME, python:MODULE:FACTORY, file:PATH, run:DIR.",
            names=MODELS,
            argument=True,
        ),
    ]
    examples: Annotated[int, Option("Number of test images to try it on.", least=1)] = 512
    normalization: Annotated[
        str | None,
        Option(
            "none, imagenet, cifar10, cifar10-per-image, half or '[[MEAN, ...], [DEVIATION, ...]]', with --weights; or "
            "pretrained."
        ),
    ] = None
    architecture: Annotated[str | None, Option("Architecture of file:PATH, if the file does not say it.")] = None
    matched: Annotated[str, Option("name, or order for the same tensors under other names.")] = "name"
    classes: Annotated[str | None, Option("imagenet, or indices of the network's outputs: 0,217,482.")] = None
    num_classes: Annotated[int | None, Option("Number of outputs of the network. Default: the data's.")] = None
    image_size: Annotated[
        int | None, Option("Input size of the network, pixels. Default: its weights', else the data's.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """The paper's first claim on digits."""

    out: Annotated[Path, Option("Folder of models, results and report.")] = Path("runs/demo")
    seed: Annotated[int, Option("Seed of weights, data order and attacks.")] = 0
    examples: Annotated[int | None, Option("Number of test images to attack. Default: all.", least=1)] = None
    overwrite: Annotated[bool, Option("Replace an earlier demo in the folder.")] = False


@dataclass(frozen=True, kw_only=True)
class RunsRequest:
    """Many runs, and where they are made."""

    workers: Annotated[
        int | None,
        Option("Number of runs at a time. Default: one per core; on a cluster, all that are ready.", least=1),
    ] = None
    executor: Annotated[str, Option("local, dask, dask:ADDRESS or slurm:partition=gpu,time=60.", metavar="NAME")] = (
        "local"
    )


@dataclass(frozen=True, kw_only=True)
class ReportedRunsRequest(RunsRequest):
    """Many runs in a folder with a report, or the report alone."""

    out: Annotated[Path | None, Option("Folder of all files. Default: runs/<recipe name>.")] = None
    dry_run: DryRun = False
    report: Annotated[bool, Option("Only write tables and pages again, from the finished runs.")] = False
    stop_after: Annotated[
        float | None, Option("Stop after this time. The same command continues.", metavar="MINUTES", least=0.0)
    ] = None
