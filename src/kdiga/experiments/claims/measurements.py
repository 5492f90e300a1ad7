"""What is measured of a student beyond attacks, against its teacher: certified radii, and bounds with their terms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from kdiga.analysis.explain import explain
from kdiga.analysis.measures import Measurements
from kdiga.analysis.model_explanation import StudentExplanation
from kdiga.certification import clever_against, smooth_against
from kdiga.data import DataSet
from kdiga.data.file_set import first_images
from kdiga.data.image_set import to_pixels
from kdiga.experiments.sections import Certification, Explaining
from kdiga.models import load_model
from kdiga.recipes.schema import Recipe
from kdiga.runs.fingerprints import fingerprint_of_images
from kdiga.runs.run_folder import write_json
from kdiga.runs.work_units import FOLDER, ResultCache
from kdiga.training.runtime import device_by_name
from kdiga.types import ThreatModel

CERTIFIED, EXPLAINED = "certificate.json", "explanation.json"
CHEAP = "pgd-20"  # the explanation's check of robustness; the verdicts rest on the evaluation's AutoAttack


@dataclass(frozen=True)
class TeacherMeasurement:
    """A measurement of a student against its teacher on the first test images: of radii, or of bounds.

    It is made once the student's best weights are trained and attacked, maybe in a worker process.
    """

    teacher: str  # folder of the teacher, below the experiment's
    settings: Certification | Explaining
    seed: int  # seed of points, noise and random starts

    @property
    def file(self) -> str:
        """Name of the file in the run's folder."""
        return CERTIFIED if isinstance(self.settings, Certification) else EXPLAINED

    @property
    def asked(self) -> dict[str, Any]:
        """The settings, as the file has them under "settings"."""
        return asdict(self.settings)

    def run(self, folder: Path, out: Path, recipe: Recipe, data: DataSet) -> None:
        """Write the file for the run in ``folder`` of the experiment in ``out``; an interrupted one continues."""
        device = device_by_name(recipe.training.device)
        student, teacher = (load_model(one, which="best").to(device) for one in (folder, out / self.teacher))
        first = first_images(data.test, self.settings.examples)
        arguments, cache = (student, teacher, to_pixels(first.images), first.labels), folder / FOLDER
        if isinstance(self.settings, Certification):
            found = _radii(self.settings, *arguments, threat=recipe.threat, seed=self.seed, folder=cache)
        else:
            found = _bounds(self.settings, *arguments, threat=recipe.threat, seed=self.seed, folder=cache)
        about = {"settings": self.asked, "teacher": self.teacher, "data_fingerprint": fingerprint_of_images(first)}
        write_json(folder / self.file, about | found)


def _radii(settings: Certification, *arguments: Any, threat: ThreatModel, seed: int, folder: Path) -> dict[str, Any]:
    """Return a student's radii and its teacher's, by CLEVER and by randomized smoothing."""
    by_clever = clever_against(
        *arguments,
        norm=threat.norm,
        max_radius=threat.eps,
        batches=settings.batches,
        batch_size=settings.batch_size,
        seed=seed,
        folder=folder,
    )
    by_smoothing = smooth_against(
        *arguments,
        sigma=settings.sigma,
        samples=settings.samples,
        selection_samples=settings.selection_samples,
        alpha=settings.alpha,
        seed=seed,
        folder=folder,
    )
    return {"clever": by_clever.to_dict(), "smoothing": by_smoothing.to_dict()}


def _bounds(
    settings: Explaining,
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Return a student's bounds and their terms: means, and the values of those measures that order the students."""
    search, results = settings.search, ResultCache(folder)
    measurements = Measurements(images, labels, threat=threat, search=search, seed=seed, result_cache=results)
    return _summary(explain(measurements, teacher, {"student": student}, attack=CHEAP).students[0])


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
