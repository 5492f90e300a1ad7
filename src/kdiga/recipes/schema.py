"""What a recipe may say. Method, threat model and training settings are the library's own dataclasses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from kdiga.data import Reading
from kdiga.errors import InputError, unknown
from kdiga.methods import Method
from kdiga.models import available_models
from kdiga.models.registry import source_of
from kdiga.teachers.manifest import RowType
from kdiga.training import TrainingSettings
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class ExtraConfig:
    """Extra training images, real or generated; see :class:`kdiga.data.MixedSet`.

    Args:
        path: an .npz file with ``image`` and ``label``, or a folder of class folders.
        share: of each batch, in (0, 1).
        labels: "given", those of the file or folder, or "teacher", the classes that the recipe's teacher sees in them.
    """

    path: str
    share: float = 0.7
    labels: Literal["given", "teacher"] = "given"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"share was {self.share!r}; it must be above 0 and below 1, for example 0.7.")


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Args:
        name: a set that ``kdiga data`` lists, or the path of a folder of class folders.
        root: folder that holds it; None looks in the usual places.
        image_size: for image files, resize and crop to this many pixels.
        train_examples: use only so many training images, every class in its proportion; the choice is the
            same for every seed.
        in_memory: for image files, whether all are decoded at the start; "auto" does so where they are small. See
            :class:`kdiga.data.Reading`.
        workers: for image files, processes that decode them; the images are the same for any number.
        skip_corrupt: leave out image files that cannot be read, in place of ending with their name.
        extra: training images beyond these.
    """

    name: str
    root: str | None = None
    image_size: int | None = None
    train_examples: int | None = None
    in_memory: Literal["auto", True, False] = "auto"
    workers: Literal["auto"] | int = "auto"
    skip_corrupt: bool = False
    extra: ExtraConfig | None = None

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return Reading(self.image_size, self.in_memory, self.workers, self.skip_corrupt)

    @property
    def for_test(self) -> DataConfig:
        """The same without what concerns training images alone."""
        return replace(self, train_examples=None, extra=None)

    def __post_init__(self) -> None:
        if self.train_examples is not None and self.train_examples < 1:
            raise InputError(f"train_examples was {self.train_examples!r}; it must be at least 1.")
        _ = self.reading  # which checks what it is given


@dataclass(frozen=True)
class ModelConfig:
    """A teacher or a student; see :func:`kdiga.load_model`.

    Args:
        name: an architecture, ``timm:NAME``, ``torchvision:NAME``, ``robustbench:DATASET/THREAT/NAME``,
            ``hf-hub:ORG/NAME``, ``file:PATH``, ``run:DIR``, or the path of a checkpoint or of a run's folder.
        weights: a state dict to put into a named architecture; beside ``pretrained``, the file that would be fetched.
        activation: in place of the architecture's own.
        normalization: "data" (mean and deviation of the training images, the default for fresh
            weights), a known name, or ``[[mean, ...], [std, ...]]``; needed with foreign weights that do not hold
            it, and left out for pretrained ones and for a checkpoint of kdiga's.
        pretrained: fetch the weights that the source has for the name.
        which: "best" or "last" weights of a run.
        architecture: of ``file:PATH``, where the file does not know it.
        matched: "name", or "order" for a file of the architecture's tensors in their order under other names.
        num_classes: outputs of the network; by default those of its weights where ``classes`` picks, else the data's.
        image_size: of the network; by default that of its weights, else the data's. Images are resized in front.
        classes: which of the network's outputs are the data's classes: "imagenet" finds them among ImageNet's 1,000
            by the names of the data's classes (WordNet ids or labels), a list gives their indices. Pretrained
            networks of those 1,000 need not say it for data whose classes are named by WordNet ids.
        options: more arguments of the source's own, such as timm's ``patch_size``.
    """

    name: str
    weights: str | None = None
    activation: str | None = None
    normalization: str | list[list[float]] | None = None
    pretrained: bool = False
    which: str = "best"
    architecture: str | None = None
    matched: Literal["name", "order"] = "name"
    num_classes: int | None = None
    image_size: int | None = None
    classes: Literal["imagenet"] | list[int] | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def typed(cls, name: str, *, weights: Path | None, normalization: str | None, **more: Any) -> ModelConfig:
        """Return the section of a command line's options.

        Args:
            name: of the model.
            weights: state dict to put into a named architecture.
            normalization: of those weights; "pretrained" where they are the source's own, fetched by hand.
            more: other keys of the section.
        """
        fetched = normalization == "pretrained"
        return cls(
            name,
            weights=None if weights is None else str(weights),
            normalization=None if fetched else normalization,
            pretrained=fetched,
            **more,
        )

    @property
    def is_fresh(self) -> bool:
        """Whether it names an architecture whose weights nobody has trained."""
        source, name = source_of(self.name)
        named = bool(source.prefix) or name in available_models()
        return named and not source.brings_weights and self.weights is None and not self.pretrained


@dataclass(frozen=True)
class Rounds:
    """Iterative distillation: from the second round on, the student of one round teaches the next.

    Round 0 is the recipe as it stands, or plain training on the labels where it names no teacher. A
    later round's student starts from its teacher's weights.

    Args:
        count: rounds in all, at least 2.
        which: "best" or "last" weights of a round are handed on.
        lr_factor: what the learning rate is multiplied by after round 0.

    Raises:
        InputError: for fewer than 2 rounds, unknown weights, or a factor of 0 or less.
    """

    count: int = 5
    which: str = "best"
    lr_factor: float = 0.01

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InputError(f"count was {self.count!r}; there must be at least 2 rounds.")
        if self.which not in ("best", "last"):
            raise unknown("kind of weights", self.which, ("best", "last"))
        if not self.lr_factor > 0:
            raise InputError(f"lr_factor was {self.lr_factor!r}; it must be above 0.")


@dataclass(frozen=True)
class CacheConfig:
    """The teacher's signals from a store that ``kdiga cache`` fills, in place of asking it at every step.

    Args:
        folder: of the store.
        views: augmented versions of each example, used in turn, epoch by epoch; 1 where training augments
            nothing.
        dtype: of the gradients: "fp32", or "fp16" or "int8" with one scale an example. Logits are fp32.
        downsample: store the mean of the gradient over blocks of so many pixels squared, for large images.
        shard_examples: examples in one file.

    Raises:
        InputError: for numbers below 1.
    """

    folder: str
    views: int = 4
    dtype: RowType = "fp16"
    downsample: int = 1
    shard_examples: int = 4096

    def __post_init__(self) -> None:
        for name in ("views", "downsample", "shard_examples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} was {getattr(self, name)!r}; it must be at least 1.")


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
        second_teacher: for methods that learn from two.
        rounds: for students that become teachers.
        cache: for a teacher whose signals are stored.
    """

    data: DataConfig
    student: ModelConfig
    method: Method
    teacher: ModelConfig | None
    threat: ThreatModel
    training: TrainingSettings
    second_teacher: ModelConfig | None = None
    rounds: Rounds | None = None
    cache: CacheConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe, every default filled in, as plain data that loads again."""
        return {
            "data": asdict(self.data),
            "student": asdict(self.student),
            "method": {"name": self.method.info.name} | asdict(self.method),  # pyright: ignore[reportArgumentType]
            "teacher": None if self.teacher is None else asdict(self.teacher),
            "threat": asdict(self.threat),
            "training": {
                # YAML has no tuples.
                key: list(cast("Any", value)) if isinstance(value, tuple) else value
                for key, value in asdict(self.training).items()
            },
            "second_teacher": None if self.second_teacher is None else asdict(self.second_teacher),
            "rounds": None if self.rounds is None else asdict(self.rounds),
            "cache": None if self.cache is None else asdict(self.cache),
        }
