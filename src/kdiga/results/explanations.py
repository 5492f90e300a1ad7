"""``explanation.json``: why robustness transferred or did not; and the pictures in ``explanation.npz``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import PlainValidator, PrivateAttr, TypeAdapter, model_validator

from kdiga.display import Displayed, Summary
from kdiga.io.safe_npz import load_arrays
from kdiga.results.fields import (
    DamagedError,
    EmptyAsNone,
    Interval,
    Lenient,
    NoneAsEmpty,
    Number,
    Outcomes,
    ResultModel,
    Share,
    Text,
    check_around,
)
from kdiga.results.shared import Findings, ModelRecord, ResultFile

PICTURED = 12  # images read; more make a heavy page
SHARE = TypeAdapter[float](Share)


class BoundRecord(ResultModel):
    """A bound of the loss in nats, mean over the images: its pieces add up to it."""

    mean: Number
    pieces: dict[str, Number]
    measured: Number
    tightness: Number | None = None


class RobustRecord(ResultModel):
    """Accuracy under the attack of the explanation."""

    attack: Text = ""
    accuracy: Share
    interval_95: Interval | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.interval_95 is not None:
            check_around(self.accuracy, self.interval_95, "interval_95")
        return self


class LinearityRecord(ResultModel):
    """Remainder of the loss from linearity in nats, mean over the images."""

    mean: Number | None = None
    interval_95: Interval | None = None


class GradientRecord(ResultModel):
    """Input gradients compared with the teacher's: mean cosine, and mean dual norm of the difference."""

    cosine: Number | None = None
    cosine_interval_95: Interval | None = None
    distance: Number | None = None


class RankingRecord(ResultModel):
    """How a measure orders the students, compared with their robust accuracy."""

    bound: Any = "a bound"
    spearman: Number | None = None
    interval_95: Interval | None = None
    p_value: Number | None = None
    models: Any = None


def _clean(value: Any) -> Any:
    accuracy = value.get("accuracy") if isinstance(value, Mapping) else value
    if accuracy is not None:
        SHARE.validate_python(accuracy)
    return value


class ExplainedModel(ModelRecord):
    """One model of an explanation; ``clean`` is an accuracy, or an object that holds it."""

    role: Text = ""
    clean: Annotated[Any, PlainValidator(_clean)] = None
    robust: Annotated[RobustRecord | None, EmptyAsNone] = None
    linearity: Annotated[LinearityRecord, Lenient] = LinearityRecord()
    gradient: Annotated[GradientRecord, Lenient] = GradientRecord()
    bounds: Annotated[dict[str, Annotated[BoundRecord | None, EmptyAsNone]], Lenient] = {}
    robustness_kept: Number | None = None
    correct: Annotated[dict[str, Outcomes], Lenient] = {}

    @property
    def is_teacher(self) -> bool:
        """Whether the model is the teacher."""
        return self.role == "teacher"

    @property
    def clean_accuracy(self) -> float | None:
        """Accuracy without an attack; None if unknown."""
        return self.clean.get("accuracy") if isinstance(self.clean, Mapping) else self.clean

    @property
    def known_bounds(self) -> dict[str, BoundRecord]:
        """Bounds that were computed, by name."""
        return {name: bound for name, bound in self.bounds.items() if bound}


@dataclass(frozen=True)
class ModelPictures:
    """Pictures of one model, in the order of the images; float arrays of shape (image, channel, height, width)."""

    gradient: np.ndarray  # input gradients
    adversarial: np.ndarray  # pixels in [0, 1]
    predictions: tuple[int, ...] | None = None  # class of each clean image
    fooled: tuple[int, ...] | None = None  # class of each adversarial image


@dataclass(frozen=True)
class Gallery:
    """Images, and pictures of each model in the order of the explanation."""

    images: np.ndarray  # float, shape (image, channel, height, width), pixels in [0, 1]
    labels: tuple[int, ...]
    classes: tuple[str, ...]  # names; empty if unknown
    models: Sequence[ModelPictures]


class ExplanationResult(Displayed, ResultFile):
    """Why robustness did or did not transfer from a teacher to its students."""

    KIND: ClassVar[str] = "explanation"
    _gallery: Gallery | None = PrivateAttr(None)

    models: list[ExplainedModel]
    ranking: Annotated[list[RankingRecord], NoneAsEmpty] = []
    sentences: Annotated[list[Text], NoneAsEmpty] = []
    reasons: Annotated[list[Text], NoneAsEmpty] = []
    findings: Findings = []
    pictures: Text = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.models:
            raise ValueError("it holds no model")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file and its pictures hold.

        Raises:
            DamagedError: if one of them cannot be read, or they do not fit together.
        """
        found = super().read(path)
        if found.pictures:
            found._gallery = read_gallery(path.with_name(Path(found.pictures).name), len(found.models))
        return found

    @property
    def gallery(self) -> Gallery | None:
        """The pictures; None without any."""
        return self._gallery

    def _summary(self) -> Summary:
        rows = [_row(model) for model in self.models]
        title = f"{self.threat.norm} eps {self.threat.eps:.4g}, {self.examples} images of {self.data}"
        return Summary(title, rows, sentences=[*self.sentences, *self.reasons], bars="robust")


def _row(model: ExplainedModel) -> dict[str, Any]:
    """Return a model for a table; low and high are the interval of its robust accuracy."""
    low, high = (model.robust and model.robust.interval_95) or (None, None)
    return {
        "model": model.name,
        "clean": model.clean_accuracy,
        "robust": model.robust and model.robust.accuracy,
        "low": low,
        "high": high,
        "kept": model.robustness_kept,
        "non-linearity": model.linearity.mean,
        "cosine": model.gradient.cosine,
        "distance": model.gradient.distance,
    }


def read_gallery(path: Path, models: int) -> Gallery:
    """Return the pictures of an explanation.

    Args:
        path: Path of the .npz file.
        models: Number of models it should hold.

    Raises:
        DamagedError: if it cannot be read, or an array does not have the shape of the images.
    """
    try:
        arrays = load_arrays(path)
    except ValueError as error:
        raise DamagedError(f"its pictures {path.name} cannot be read ({error})") from None
    images, labels, classes = arrays.get("images"), arrays.get("labels"), arrays.get("classes", np.array([]))
    if (
        images is None
        or labels is None
        or images.ndim != 4
        or labels.shape != images.shape[:1]
        or images.shape[1] not in (1, 3)
        or not _is_finite(images)
    ):
        raise DamagedError(f"{path.name} holds no images (n, 1 or 3, height, width) with a label each")
    if classes.ndim != 1:
        raise DamagedError(f"{path.name} has classes of shape {classes.shape}, not a name each")
    return Gallery(
        images=images[:PICTURED],
        labels=tuple(int(label) for label in labels[:PICTURED]),
        classes=tuple(str(name) for name in classes),
        models=[_model_pictures(arrays, row, images.shape, path.name) for row in range(models)],
    )


def _is_finite(found: np.ndarray) -> bool:
    return found.dtype.kind in "buif" and bool(np.isfinite(found).all())


def _model_pictures(arrays: Mapping[str, np.ndarray], row: int, shape: tuple[int, ...], name: str) -> ModelPictures:
    pictures: list[np.ndarray] = []
    for kind in ("gradient", "adversarial"):
        found = arrays.get(f"{kind}_{row}")
        if found is None or found.shape != shape or not _is_finite(found):
            raise DamagedError(f"{name} has no gradient and adversarial image of model {row} for each image")
        pictures.append(found[:PICTURED])
    clean, fooled = (arrays.get(f"{kind}_{row}") for kind in ("prediction", "adversarial_prediction"))
    return ModelPictures(pictures[0], pictures[1], _predictions(clean, shape[0]), _predictions(fooled, shape[0]))


def _predictions(found: np.ndarray | None, images: int) -> tuple[int, ...] | None:
    if found is not None and found.shape != (images,):
        raise DamagedError("its pictures must have one prediction per image")
    return None if found is None else tuple(int(value) for value in found[:PICTURED])
