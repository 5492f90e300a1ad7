"""From a recipe to objects: data, validation split and models, each loaded once and used by all that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from kdiga.data import DataSet, Images, ImageSet, MixedSet, load_data, split
from kdiga.data.extra import load_extra
from kdiga.errors import InputError
from kdiga.io.safe_json_yaml import load_json
from kdiga.model_state import evaluating, seeded
from kdiga.models import Classifier, load_model
from kdiga.models.imagenet import CLASSES, are_wordnet_ids, indices_of
from kdiga.models.registry import source_of
from kdiga.recipes.schema import DataConfig, ModelConfig, Recipe
from kdiga.runs.run_folder import RESULT
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import hold_out, validation_subset

WEIGHTS_STREAM, TEACHER_STREAM = 1, 2  # random streams of the seed for initial weights
SUBSET_SEED = 0  # seed for the choice of train_examples, the same for every seed of a recipe


class RunModels(NamedTuple):
    """The models of one run; teachers that the recipe does not name are None."""

    student: Classifier
    teacher: Classifier | None
    second_teacher: Classifier | None


@dataclass(frozen=True)
class PreparedRun:
    """A recipe and its objects. Models and validation split are made on first use, and once."""

    recipe: Recipe  # validated recipe
    data: DataSet  # data set of the recipe

    @cached_property
    def models(self) -> RunModels:
        """The student, with fresh weights by the recipe's seed or with loaded weights, and the teachers."""
        return build_models(self.recipe, self.data)

    @cached_property
    def train(self) -> Images:
        """The images to train on, without those for validation; extra images have their labels."""
        train, extra = self._split[0], self.recipe.data.extra
        if extra is None or extra.labels != "teacher" or self.models.teacher is None:
            return train
        return label_extra_images(self.models.teacher, train, self.device)

    @cached_property
    def validation(self) -> ImageSet:
        """The images of the check after each epoch, held out from the training images."""
        return validation_subset(self._split[1], self.recipe.training.validation_examples)

    @cached_property
    def _split(self) -> tuple[Images, Images]:
        return hold_out(self.data.train, self.recipe.training)

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return device_by_name(self.recipe.training.device)


def prepare(recipe: Recipe, data: DataSet | None = None) -> PreparedRun:
    """Return a recipe with its objects."""
    return PreparedRun(recipe, data or load_recipe_data(recipe.data))


def load_recipe_data(config: DataConfig) -> DataSet:
    """Return the data of a recipe's section.

    Raises:
        InputError: If the data cannot be loaded, or have fewer training images than the section asks for.
    """
    data = load_data(config.name, root=config.root, **asdict(config.reading))
    train, wanted, available = data.train, config.train_examples, len(data.train)
    if wanted is not None and wanted > available:
        raise InputError(f"train_examples was {wanted}; {config.name} has {available} training images.")
    if wanted is not None and wanted < available:
        _, subset = split(train, wanted / available, SUBSET_SEED)
        train = subset.take(slice(wanted))  # split rounds the share up
    if config.extra is not None and not isinstance(train, MixedSet):
        labels = config.extra.labels
        more = load_extra(Path(config.extra.path), train, config.reading, labelled=labels == "given")
        train = MixedSet(train, more, config.extra.share, unlabelled=labels == "none")
    return replace(data, train=train)


def label_extra_images(teacher: nn.Module, images: Images, device: torch.device) -> Images:
    """Return images whose extra ones have the teacher's predictions as labels."""
    if not isinstance(images, MixedSet):
        return images
    teacher.to(device)
    with torch.no_grad(), evaluating(teacher):
        predictions = [teacher(batch).argmax(1).cpu() for batch, _ in images.extra.to(device).batches()]
    return replace(images, extra=replace(images.extra, labels=torch.cat(predictions)))


def build_models(recipe: Recipe, data: DataSet) -> RunModels:
    """Return the student, with fresh weights by the recipe's seed or with loaded weights, and the teachers.

    Raises:
        InputError: If a model cannot be built or does not fit the data.
    """
    with seeded(recipe.training.seed, WEIGHTS_STREAM):
        student = build_model(recipe.student, data.train)
    # A separate stream: a teacher with fresh weights must not change the student's weights, nor equal them.
    with seeded(recipe.training.seed, TEACHER_STREAM):
        teacher, second = (
            None if config is None else build_model(config, data.train)
            for config in (recipe.teacher, recipe.second_teacher)
        )
    models = RunModels(student, teacher, second)
    for role, model in zip(RunModels._fields, models, strict=True):
        config = getattr(recipe, role)
        if model is not None and config is not None:
            check_fits(role.replace("_", " "), model, data.train)
            check_classes(role.replace("_", " "), config.name, data.train.classes)
    return models


def build_model(config: ModelConfig, data: Images) -> Classifier:
    """Return the model of a recipe's section, for images like ``data``."""
    # Fresh weights can have any normalisation; trained weights need the normalisation of their training.
    normalization = config.normalization or ("data" if config.is_fresh else None)
    given: dict[str, Any] = vars(config) | {
        "normalization": data.moments() if normalization == "data" else normalization,
        "classes": data.classes if config.classes == "imagenet" else config.classes,
    }
    model = load_model(given.pop("name"), images=(data.in_channels, data.image_size, _outputs(config, data)), **given)
    return fitted_to(model, data)


def load_model_without_data(config: ModelConfig) -> Classifier:
    """Return the model of a recipe's section, without data."""
    if config.normalization == "data" or config.classes == "imagenet":
        raise InputError("normalization: data and classes: imagenet need data to be read from; name a data set.")
    given: dict[str, Any] = dict(vars(config))
    return load_model(given.pop("name"), **given)


def _outputs(config: ModelConfig, data: Images) -> int:
    """Return the number of outputs of a network for the data; pretrained networks have ImageNet's classes."""
    brings = config.pretrained or (source_of(config.name)[0].brings_weights and config.architecture is None)
    return CLASSES if brings and are_wordnet_ids(data.classes) else data.num_classes


def fitted_to(model: Classifier, data: Images) -> Classifier:
    """Return the model for images like ``data``, with layers in front or behind where the model needs them.

    Images are resized, and grey is converted to colour or back. A network of ImageNet's 1,000 classes, for data with
    WordNet ids as class names, gives the logits of the data's classes.
    """
    spec = model.spec
    picks = not spec.classes and spec.num_classes == CLASSES and are_wordnet_ids(data.classes)
    classes = indices_of(data.classes, CLASSES) if picks else ()
    if classes == tuple(range(CLASSES)):
        classes = ()
    if spec.takes[:2] == (data.in_channels, data.image_size) and not classes:
        return model
    return model.fitted(channels=data.in_channels, size=data.image_size, classes=classes)


def check_fits(role: str, model: Classifier, data: Images) -> None:
    """Check that a model takes these images and has as many classes."""
    wants, has = model.spec.takes, (data.in_channels, data.image_size, data.num_classes)
    if wants != has:
        hint = ", or pick the data's classes among the network's by classes: imagenet, or a list of indices"
        raise InputError(
            f"the {role} {model.spec.name} takes {_describe_shape(wants)} and the data has {_describe_shape(has)}; "
            f"teacher, student and data must agree. Name another model or another data set"
            f"{hint if wants[2] > has[2] else ''}."
        )


def _describe_shape(shape: tuple[int, int, int]) -> str:
    channels, size, classes = shape
    return f"{channels}x{size}x{size} images of {classes} classes"


def check_classes(role: str, model: str, classes: Sequence[str]) -> None:
    """Check that a run was trained on images of these classes, if both have class names."""
    known = _classes_of_run(Path(model.removeprefix("run:")))
    if known is None or len(known) != len(classes) or _are_numbers(known) or _are_numbers(classes):
        return  # check_fits reports other numbers of classes
    for number, (own, given) in enumerate(zip(known, classes, strict=True)):
        if own != given:
            raise InputError(
                f"the {role} {model} was trained with class {number} named {own!r}, and the images have {given!r} "
                "there; its logits mean other classes. Give a model of these classes, or the images it was trained for."
            )


def _classes_of_run(path: Path) -> Sequence[str] | None:
    folder = path if path.is_dir() else path.parent
    try:
        return load_json(folder / RESULT)["data"]["classes"] if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no run, or the run of an earlier version


def _are_numbers(classes: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(classes))
