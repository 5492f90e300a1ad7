"""What is measured of a student beyond attacks, against its teacher: certified radii, and bounds with their terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from kdiga.analysis.explain import explain
from kdiga.analysis.measures import Measurements
from kdiga.analysis.model_explanation import StudentExplanation
from kdiga.certification import clever_against, smooth_against
from kdiga.data import DataSet
from kdiga.data.image_set import to_pixels
from kdiga.experiments.claims.grid import Certification, Explaining
from kdiga.models import load_model
from kdiga.recipes.schema import Recipe
from kdiga.runs.folder import write_result
from kdiga.runs.work_units import FOLDER, ResultCache
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import validation_subset
from kdiga.types import ThreatModel

CERTIFIED, EXPLAINED = "certificate.json", "explanation.json"
CHEAP = "pgd-20"  # the explanation's check of robustness; the verdicts rest on the evaluation's AutoAttack


SettingsT = TypeVar("SettingsT", Certification, Explaining)


@dataclass(frozen=True)
class TeacherMeasurement(ABC, Generic[SettingsT]):
    """A measurement of a student against its teacher on the first test images.

    Args:
        teacher: Folder of the teacher, below the experiment's.
        settings: Settings of the measurement.
        seed: Seed of points, noise and random starts.
    """

    teacher: str
    settings: SettingsT
    seed: int

    @property
    @abstractmethod
    def file(self) -> str:
        """Name of the file in the run's folder."""

    @property
    def asked(self) -> dict[str, Any]:
        """The settings, as the file has them."""
        return asdict(self.settings)

    def run(self, folder: Path, out: Path, recipe: Recipe, data: DataSet) -> None:
        """Write the file; an interrupted measurement continues."""
        device = device_by_name(recipe.training.device)
        student, teacher = (load_model(one, which="best").to(device) for one in (folder, out / self.teacher))
        first = validation_subset(data.test, self.settings.examples)
        found = self.measure(student, teacher, to_pixels(first.images), first.labels, recipe.threat, folder / FOLDER)
        write_result(folder, {"settings": self.asked, "teacher": self.teacher} | found, self.file)

    @abstractmethod
    def measure(
        self, student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, cache: Path
    ) -> dict[str, Any]:
        """Return the measures as plain data; finished work units are stored in the folder ``cache``."""


class CertifyMeasurement(TeacherMeasurement[Certification]):
    """A student's radii and its teacher's, by CLEVER and by randomized smoothing."""

    @property
    def file(self) -> str:
        """Name of the file in the run's folder."""
        return CERTIFIED

    def measure(
        self, student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, cache: Path
    ) -> dict[str, Any]:
        """Return the radii by method."""
        settings, about = self.settings, (student, teacher, images, labels)
        by_clever = clever_against(
            *about,
            norm=threat.norm,
            max_radius=threat.eps,
            batches=settings.batches,
            batch_size=settings.batch_size,
            seed=self.seed,
            folder=cache,
        )
        by_smoothing = smooth_against(
            *about,
            sigma=settings.sigma,
            samples=settings.samples,
            selection_samples=settings.selection_samples,
            alpha=settings.alpha,
            seed=self.seed,
            folder=cache,
        )
        return {"clever": by_clever.to_dict(), "smoothing": by_smoothing.to_dict()}


class ExplainMeasurement(TeacherMeasurement[Explaining]):
    """A student's bounds, their terms, and the worst case that a search found, example by example."""

    @property
    def file(self) -> str:
        """Name of the file in the run's folder."""
        return EXPLAINED

    def measure(
        self, student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, cache: Path
    ) -> dict[str, Any]:
        """Return means, and the values of those measures that order the students."""
        search, results = self.settings.search, ResultCache(cache)
        measurements = Measurements(images, labels, threat=threat, search=search, seed=self.seed, result_cache=results)
        found = explain(measurements, teacher, {"student": student}, attack=CHEAP)
        return _summary(found.students[0])


def _summary(student: StudentExplanation) -> dict[str, Any]:
    """Return a student's measures as plain data: means, and the values of those that order students."""
    bounds, cosines = {"student": student.student_bound, "transfer": student.transfer_bound}, student.defined_cosines
    values = {f"{name} bound": bound.values for name, bound in bounds.items()} | {
        "local linearity": student.linearity,
        "gradient distance": student.distance,
        "gradient cosine": student.cosine,
    }
    return {
        "linearity": fmean(student.linearity),
        "cosine": fmean(cosines) if cosines else None,
        "bounds": {name: bound.to_dict() | {"violations": bound.violations} for name, bound in bounds.items()},
        "values": {
            name: [None if value is None else float(f"{value:.5g}") for value in row] for name, row in values.items()
        },
    }
