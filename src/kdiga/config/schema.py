"""What a recipe may say. Method, threat model and training settings are the library's own dataclasses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kdiga.methods import Method
from kdiga.training import TrainingSettings
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Args:
        name: a set that ``kdiga data`` lists, or the path of a folder of class folders.
        root: folder that holds it; None looks in the usual places.
        image_size: for folders, resize and crop to this many pixels.
    """

    name: str
    root: str | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """A teacher or a student; see :func:`kdiga.load_model`.

    Args:
        name: an architecture, ``timm:NAME``, a checkpoint of kdiga's or the folder of a run.
        weights: a state dict to put into a named architecture.
        activation: in place of the architecture's own.
        normalization: "data" (mean and deviation of the training images, the default for fresh
            weights), a known name, or ``[[mean, ...], [std, ...]]``; needed with foreign weights, and
            left out for a checkpoint of kdiga's.
        pretrained: fetch timm's weights.
        which: "best" or "last" weights of a run.
    """

    name: str
    weights: str | None = None
    activation: str | None = None
    normalization: str | list[list[float]] | None = None
    pretrained: bool = False
    which: str = "best"


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        data: which images.
        student: the model to train.
        method: one of ``kdiga methods``, configured.
        teacher: for methods that need one.
        threat: what the student should withstand.
        training: everything else.
    """

    data: DataConfig
    student: ModelConfig
    method: Method
    teacher: ModelConfig | None
    threat: ThreatModel
    training: TrainingSettings

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe, every default filled in, as plain data that loads again."""
        return {
            "data": asdict(self.data),
            "student": asdict(self.student),
            "method": {"name": self.method.info.name} | asdict(self.method),  # pyright: ignore[reportArgumentType]
            "teacher": None if self.teacher is None else asdict(self.teacher),
            "threat": asdict(self.threat),
            "training": asdict(self.training) | {"milestones": list(self.training.milestones)},
        }
