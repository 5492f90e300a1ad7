"""``certificate.json``: certified radii of a model, and of its teacher for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import model_validator

from kdiga.display import Displayed, Summary
from kdiga.results.fields import Count, EmptyAsNone, Interval, Lenient, NoneAsEmpty, Number, ResultModel, Share, Text
from kdiga.results.shared import AccuracyCurve, JudgedFile, ModelRecord
from kdiga.statistics import median_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CERTIFICATES = ("clever", "smoothing", "interval")
SETTINGS = ("sigma", "samples", "alpha", "batches", "batch_size", "max_radius")


class RadiusCurve(ResultModel):
    """Share of all images that are right and have at least a radius."""

    radius: list[Number]
    accuracy: list[Share]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.radius or len(self.radius) != len(self.accuracy):
            raise ValueError("has not one accuracy a radius")
        return self

    @property
    def curve(self) -> AccuracyCurve:
        """The same as a curve."""
        return AccuracyCurve(tuple(self.radius), tuple(self.accuracy))


class RadiiRecord(ResultModel):
    """Certified radii of one kind; None for images without a radius."""

    norm: Text = ""
    radius: list[Number | None]
    failed: Count = None
    abstained: Count = None
    curve: RadiusCurve
    sigma: Number | None = None
    samples: Number | None = None
    alpha: Number | None = None
    batches: Number | None = None
    batch_size: Number | None = None
    max_radius: Number | None = None

    @property
    def median(self) -> float | None:
        """Median radius of the images that have one."""
        return median_known(self.radius)

    @property
    def missing(self) -> str:
        """Images without a radius, in words."""
        counts = ((self.failed, "without a fit"), (self.abstained, "abstained"))
        return ", ".join(f"{count} {why}" for count, why in counts if count)

    @property
    def settings(self) -> dict[str, float]:
        """Numbers of samples and the like, by name."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


class AlignmentRecord(ResultModel):
    """What aligned gradients guarantee: medians of rho / L, and of the guaranteed over the own radius."""

    median_rho_over_lipschitz: Number | None = None
    median_guaranteed_over_measured: Number | None = None


class RadiiComparison(ResultModel):
    """Radii of a student compared with its teacher's."""

    share_at_least_teacher: Share | None = None
    share_interval_95: Interval | None = None
    teacher_curve: RadiusCurve | None = None
    guaranteed_radius: Annotated[list[Number | None], NoneAsEmpty] = []
    alignment: Annotated[AlignmentRecord, Lenient] = AlignmentRecord()

    @property
    def guaranteed(self) -> float | None:
        """Median radius that alignment guarantees, of the images that have one."""
        return median_known([radius for radius in self.guaranteed_radius if radius])


class TeacherComparison(ResultModel):
    """Comparisons with the teacher, by kind of certificate."""

    teacher: Annotated[ModelRecord | None, EmptyAsNone] = None
    clever: Annotated[RadiiComparison | None, EmptyAsNone] = None
    smoothing: Annotated[RadiiComparison | None, EmptyAsNone] = None
    interval: Annotated[RadiiComparison | None, EmptyAsNone] = None


class CertificateResult(Displayed, JudgedFile):
    """A certified model."""

    KIND: ClassVar[str] = "certificate"

    clever: Annotated[RadiiRecord | None, EmptyAsNone] = None
    smoothing: Annotated[RadiiRecord | None, EmptyAsNone] = None
    interval: Annotated[RadiiRecord | None, EmptyAsNone] = None
    against: Annotated[TeacherComparison, Lenient] = TeacherComparison()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.radii:
            raise ValueError(f"it holds none of {', '.join(CERTIFICATES)}")
        return self

    @property
    def radii(self) -> dict[str, RadiiRecord]:
        """Radii by kind of certificate."""
        return {kind: found for kind in CERTIFICATES if (found := getattr(self, kind)) is not None}

    @property
    def comparisons(self) -> dict[str, RadiiComparison]:
        """Comparisons with the teacher, by kind of certificate."""
        return {kind: found for kind in CERTIFICATES if (found := getattr(self.against, kind)) is not None}

    def norm_of(self, kind: str) -> str:
        """Return the norm of a certificate's radii."""
        return self.radii[kind].norm or self.threat.norm

    def _summary(self) -> Summary:
        rows = list[dict[str, Any]]()
        for kind, found in self.radii.items():
            comparison = self.comparisons.get(kind)
            share = None if comparison is None else comparison.share_at_least_teacher
            known = {"norm": self.norm_of(kind), "median radius": found.median, "images": len(found.radius)}
            rows.append(
                {"certificate": kind, **known, "without": found.missing or None, "at least the teacher's": share}
            )
        conditions = f"{self.threat.norm} eps {self.threat.eps:.4g}, {self.examples} images of {self.data}"
        return Summary(f"{self.model}, {conditions}", rows, bars="median radius")

    def _draw(self, axes: Axes) -> None:
        """Draw certified accuracy against the radius."""
        for kind, found in self.radii.items():
            axes.plot(found.curve.radius, found.curve.accuracy, label=f"{kind}, {self.norm_of(kind)}")
        axes.set(xlabel="radius", ylabel="certified accuracy", title=self.model)
        axes.legend()
