"""The sections of a recipe. Method, threat model and training settings are the library's own dataclasses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, cast

from kdiga.data import Reading
from kdiga.errors import InputError, check_at_least, check_known
from kdiga.methods import Method, method_class, method_options
from kdiga.models.registry import is_architecture, source_of
from kdiga.teachers.manifest import RowType
from kdiga.training import TrainingSettings
from kdiga.types import ThreatModel, added_option, recorded_options


@dataclass(frozen=True)
class ExtraConfig:
    """Extra training images, real or generated; see :class:`kdiga.data.MixedSet`."""

    path: str  # path of an .npz file with ``image`` and ``label``, or of a folder of class folders
    share: float = 0.7  # fraction of extra images in each batch, in (0, 1)
    # "given" (labels of the file or folder), "teacher" (predictions of the recipe's teacher) or "none" (label losses
    # and input gradients leave the images out; terms of the teacher use them, and attacks take predictions as labels).
    # Without "given" the folder need not have class folders
    labels: Literal["given", "teacher", "none"] = "given"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"share was {self.share!r}; it must be above 0 and below 1, for example 0.7.")


@dataclass(frozen=True)
class DataConfig:
    """The section ``data``."""

    name: str  # data set that ``kdiga data`` lists, or the path of a folder of class folders or of a CSV file
    root: str | None = None  # folder of the data set; None searches the default folders
    image_size: int | None = None  # size to resize image files to, in pixels
    # Number of training images to use, with each class in its proportion; the choice is the same for every seed
    train_examples: int | None = None
    # Whether all image files are decoded at the start; "auto" decodes small data sets. See :class:`kdiga.data.Reading`
    in_memory: Literal["auto", True, False] = "auto"
    # Number of processes that decode image files; it does not change the images
    workers: Literal["auto"] | int = "auto"
    skip_corrupt: bool = False  # whether to leave out image files that cannot be read; otherwise they are an error
    extra: ExtraConfig | None = None  # extra training images
    # Way to image_size: "crop" (the middle), "pad" (black borders) or "stretch"
    resize: Literal["crop", "pad", "stretch"] = added_option("crop")

    @property
    def reading(self) -> Reading:
        """The settings for reading image files."""
        return Reading(self.image_size, self.in_memory, self.workers, self.skip_corrupt, self.resize)

    @property
    def for_test(self) -> DataConfig:
        """The section without the keys of training images."""
        return replace(self, train_examples=None, extra=None)

    def __post_init__(self) -> None:
        check_at_least(1, train_examples=self.train_examples)
        _ = self.reading  # checks its values


@dataclass(frozen=True)
class ModelConfig:
    """A teacher or a student; see :func:`kdiga.load_model`.

    Args:
        name: Architecture, ``timm:NAME``, ``torchvision:NAME``, ``robustbench:DATASET/THREAT/NAME``,
            ``hf-hub:ORG/NAME``, ``zoo:NAME``, ``file:PATH``, ``run:DIR``, or the path of a checkpoint or of a run's
            folder.
        weights: State dict for a named architecture; with ``pretrained``, the file of the pretrained weights.
        activation: Activation instead of the architecture's own.
        normalization: "data" (mean and deviation of the training images, the default for fresh weights), a known name,
            or ``[[mean, ...], [std, ...]]``. Required for foreign weights without it; not needed for pretrained
            weights and kdiga's checkpoints.
        pretrained: Whether to download the weights that the source has for the name.
        which: "best" or "last" weights of a run.
        architecture: Architecture of ``file:PATH``, if the file does not contain it.
        matched: "name", or "order" for a file with the architecture's tensors in their order under other names.
        num_classes: Number of outputs of the network; by default that of its weights with ``classes``, else the
            data's.
        image_size: Image size of the network; by default that of its weights, else the data's. Images are resized.
        classes: Outputs of the network for the data's classes: "imagenet" finds them among ImageNet's 1,000 classes
            by the names of the data's classes (WordNet ids or labels), a list gives their indices. Not needed for
            pretrained networks of these 1,000 classes and data with WordNet ids as class names.
        options: Further arguments for the source, such as timm's ``patch_size``.
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

    @property
    def is_fresh(self) -> bool:
        """Whether the model is an architecture with fresh weights."""
        source, name = source_of(self.name)
        named = bool(source.prefix) or is_architecture(name)
        return named and not source.brings_weights and self.weights is None and not self.pretrained


@dataclass(frozen=True)
class Rounds:
    """Iterative distillation: the student of each round teaches the next round.

    Round 0 is the recipe without rounds, or training on the labels if the recipe has no teacher. The student of a
    later round starts from its teacher's weights.
    """

    count: int = 5  # number of rounds, at least 2
    which: str = "best"  # "best" or "last" weights of a round, for the next round
    lr_factor: float = 0.01  # factor of the learning rate after round 0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InputError(f"count was {self.count!r}; there must be at least 2 rounds.")
        check_known("kind of weights", self.which, ("best", "last"))
        if not self.lr_factor > 0:
            raise InputError(f"lr_factor was {self.lr_factor!r}; it must be above 0.")


@dataclass(frozen=True)
class CacheConfig:
    """The store of the teacher's signals, which ``kdiga cache`` fills; training then does not run the teacher."""

    folder: str  # folder of the store
    views: int = 4  # number of augmented versions of each example, one for each epoch in turn; 1 without augmentation
    # Type of the gradients: "fp32", or "fp16" or "int8" with one scale for an example. Logits are fp32
    dtype: RowType = "fp16"
    downsample: int = 1  # side of the blocks of pixels that gradients are averaged over, for large images
    shard_examples: int = 4096  # number of examples in one file

    def __post_init__(self) -> None:
        check_at_least(1, views=self.views, downsample=self.downsample, shard_examples=self.shard_examples)


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    data: DataConfig  # data set
    student: ModelConfig  # model to train
    method: Method  # configured method
    teacher: ModelConfig | None  # teacher, for methods that need one
    threat: ThreatModel  # threat model that the student should withstand
    training: TrainingSettings  # training settings
    second_teacher: ModelConfig | None = None  # second teacher, for methods with two
    rounds: Rounds | None = None  # rounds, for students that become teachers
    cache: CacheConfig | None = None  # store of the teacher's signals

    @property
    def all_epochs(self) -> int:
        """Epochs of training in all rounds."""
        return self.training.epochs * (1 if self.rounds is None else self.rounds.count)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe with all defaults, as plain data that loads again."""
        sections: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        plain: dict[str, Any] = {
            name: None if section is None else asdict(section) for name, section in sections.items()
        }
        plain["data"] = {name: plain["data"][name] for name in recorded_options(self.data)}
        recorded, kind = recorded_options(self.training), method_class(self.method)
        plain["method"] = {"name": kind.info.name} | method_options(self.method)
        # YAML has no tuples.
        plain["training"] = {
            key: list(cast("Any", value)) if isinstance(value, tuple) else value
            for key, value in plain["training"].items()
            if key in recorded
        }
        return plain
