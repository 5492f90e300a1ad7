"""What is found out of a student beyond attacks, against its teacher: certified radii, and bounds with their pieces."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from kdiga.analysis.explain import explain
from kdiga.analysis.model_explanation import ModelExplanation
from kdiga.certification import clever_against, smooth_against
from kdiga.data import DataSet
from kdiga.data.image_set import to_pixels
from kdiga.experiments.claims.settings import Certification, Explaining
from kdiga.models import load_model
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import write_result
from kdiga.runs.work_units import FOLDER, ResultCache
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import validation_subset

CERTIFIED, EXPLAINED = "certificate.json", "explanation.json"
CHEAP = "pgd-20"  # of the explanation's own check of robustness; the verdicts rest on the evaluation's AutoAttack


@dataclass(frozen=True)
class CertifyMeasurement:
    """A student's radii beside its teacher's, by CLEVER and by randomized smoothing.

    Args:
        teacher: its folder below the study's.
        settings: of both methods.
        seed: of points and noise.
    """

    teacher: str
    settings: Certification
    seed: int

    @property
    def file(self) -> str:
        """Name of the file in the run's folder."""
        return CERTIFIED

    @property
    def asked(self) -> dict[str, Any]:
        """The settings, as the file has them."""
        return asdict(self.settings)

    def run(self, folder: Path, out: Path, recipe: Recipe, data: DataSet) -> None:
        """Write the file; what is finished of an interrupted run is not done again."""
        student, teacher = _models(folder, out / self.teacher, recipe)
        images, labels = _first(data, self.settings.examples)
        settings, kept = self.settings, folder / FOLDER
        found: dict[str, Any] = {
            "clever": clever_against(
                student,
                teacher,
                images,
                labels,
                norm=recipe.threat.norm,
                max_radius=recipe.threat.eps,
                batches=settings.batches,
                batch_size=settings.batch_size,
                seed=self.seed,
                folder=kept,
            ),
            "smoothing": smooth_against(
                student,
                teacher,
                images,
                labels,
                sigma=settings.sigma,
                samples=settings.samples,
                selection_samples=settings.selection_samples,
                alpha=settings.alpha,
                seed=self.seed,
                folder=kept,
            ),
        }
        content = {name: against.to_dict() for name, against in found.items()}
        write_result(folder, {"settings": self.asked, "teacher": self.teacher} | content, self.file)


@dataclass(frozen=True)
class ExplainMeasurement:
    """A student's bounds, their pieces, and the worst that a search found, example by example.

    Args:
        teacher: its folder below the study's.
        settings: of the measurement.
        seed: of random starts.
    """

    teacher: str
    settings: Explaining
    seed: int

    @property
    def file(self) -> str:
        """Name of the file in the run's folder."""
        return EXPLAINED

    @property
    def asked(self) -> dict[str, Any]:
        """The settings, as the file has them."""
        return asdict(self.settings)

    def run(self, folder: Path, out: Path, recipe: Recipe, data: DataSet) -> None:
        """Write the file; what is finished of an interrupted run is not done again."""
        student, teacher = _models(folder, out / self.teacher, recipe)
        images, labels = _first(data, self.settings.examples)
        found = explain(
            teacher,
            {"student": student},
            images,
            labels,
            threat=recipe.threat,
            attack=CHEAP,
            search=self.settings.search,
            seed=self.seed,
            result_cache=ResultCache(folder / FOLDER),
        )
        content = {"settings": self.asked, "teacher": self.teacher} | _summary(found.students[0])
        write_result(folder, content, self.file)


def _summary(student: ModelExplanation) -> dict[str, Any]:
    """Return a student's measures as plain data: means, and the values of those that order students."""
    agreement, bounds = student.agreement, {"student": student.student_bound, "transfer": student.transfer_bound}
    assert agreement is not None
    known = {name: bound for name, bound in bounds.items() if bound is not None}
    values = {f"{name} bound": bound.values for name, bound in known.items()} | {
        "local linearity": student.linearity,
        "gradient distance": agreement.distance,
        "gradient cosine": agreement.cosine,
    }
    return {
        "linearity": fmean(student.linearity),
        "cosine": fmean(agreement.defined) if agreement.defined else None,
        "bounds": {name: bound.to_dict() | {"violations": bound.violations} for name, bound in known.items()},
        "values": {
            name: [None if value is None else float(f"{value:.5g}") for value in row] for name, row in values.items()
        },
    }


def _models(folder: Path, teacher: Path, recipe: Recipe) -> tuple[nn.Module, nn.Module]:
    device = device_by_name(recipe.training.device)
    return load_model(folder, which="best").to(device), load_model(teacher, which="best").to(device)


def _first(data: DataSet, examples: int) -> tuple[Tensor, Tensor]:
    """Return the first so many test images, pixels in [0, 1], and labels."""
    loaded = validation_subset(data.test, examples)
    return to_pixels(loaded.images), loaded.labels
