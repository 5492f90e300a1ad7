"""Models and test sets of a command line, for evaluation and analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiga.data import FileSet, ImageSet, available_data
from kdiga.errors import InputError
from kdiga.io.safe_json_yaml import load_json
from kdiga.models import Classifier, count_parameters
from kdiga.models.registry import source_of
from kdiga.recipes.schema import DataConfig, ModelConfig
from kdiga.runs.fingerprints import fingerprint_of_images, fingerprint_of_model
from kdiga.runs.folder import read_config, try_writing
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import validation_subset
from kdiga.types import ThreatModel
from kdiga.workflows.prepare import build_model, check_classes, check_fits, load_recipe_data


@dataclass(frozen=True)
class TestSet:
    """The test images and the threat model of an evaluation.

    Args:
        images: Test images.
        threat: Norm and eps.
        data: Name of the data set.
    """

    images: ImageSet
    threat: ThreatModel
    data: str

    def about(self) -> dict[str, Any]:
        """Return the description for result files, as plain data."""
        return {
            "data": self.data,
            "data_fingerprint": fingerprint_of_images(self.images),
            "examples": len(self.images),
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
        }


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with its description.

    Args:
        model: Model in eval mode, on its device.
        about: Description for result files, plain data: name, weights, architecture, parameters and fingerprint.
    """

    model: Classifier
    about: dict[str, Any]


def load_test_set(
    models: Sequence[str],
    *,
    data: str | None = None,
    root: Path | None = None,
    eps: str | None = None,
    norm: str | None = None,
    examples: int | None = None,
) -> TestSet:
    """Return the test set of models: the given values, and the recipe of the first run for the others.

    Args:
        models: Models of the command line; runs' folders, or weights in them, have a recipe.
        data: Name of a data set.
        root: Folder of the data set.
        eps: Number or fraction, pixels in [0, 1].
        norm: "linf" or "l2".
        examples: Number of test images to use, the first ones.

    Raises:
        InputError: If no data set is known, or ``examples`` is below 1.
    """
    recipe = next((found for found in map(recipe_of, models) if found), {})
    config = _data_config(models, recipe, data, root)
    given = recipe.get("threat", {})
    threat = ThreatModel.parse(norm or given.get("norm", "linf"), given.get("eps", "8/255") if eps is None else eps)
    if examples is not None and examples < 1:
        raise InputError(f"examples was {examples!r}; it must be at least 1.")
    test = load_recipe_data(config.for_test).test
    test = test if examples is None else test.take(slice(examples))
    # Decoded once, since attacks use the same images many times.
    return TestSet(test.load() if isinstance(test, FileSet) else test, threat, config.name)


def training_images(models: Sequence[str], count: int, *, data: str | None = None, root: Path | None = None) -> Tensor:
    """Return training images of the data that :func:`load_test_set` finds, float (example, channel, height, width).

    Args:
        models: Models of the command line.
        count: Number of images, with each class in its proportion; always the same ones.
        data: Name of a data set.
        root: Folder of the data set.

    Raises:
        InputError: If there are fewer images, or no data set is known.
    """
    recipe = next((found for found in map(recipe_of, models) if found), {})
    config = replace(_data_config(models, recipe, data, root).for_test, train_examples=count)
    train = validation_subset(load_recipe_data(config).train, count)
    return torch.cat([images for images, _ in train.batches()])


def load_judged_model(
    model: str,
    test_set: TestSet,
    *,
    which: str = "best",
    weights: Path | None = None,
    normalization: str | None = None,
    device: str = "auto",
    role: str = "model",
) -> LoadedModel:
    """Return a model for a test set.

    Args:
        model: Any name that a recipe accepts, such as a run's folder, ``timm:NAME`` (with pretrained weights), or an
            architecture with ``weights``.
        test_set: Test set; the model must fit its images.
        which: "best" or "last" weights of a run.
        weights: State dict for a named architecture.
        normalization: Normalisation of these weights; "pretrained" for the source's own weights in a file.
        device: "auto", "cpu" or "cuda".
        role: Role of the model, for messages.

    Raises:
        InputError: If it cannot be loaded, takes other images, or has fresh weights.
    """
    config = ModelConfig.typed(model, weights=weights, normalization=normalization, which=which)
    images = test_set.images
    classifier = build_model(judged(config), images)
    check_fits(role, classifier, images)
    check_classes(role, model, images.classes)
    about = describe(classifier, model if weights is None else f"{model} {weights}", which if _is_run(model) else None)
    return LoadedModel(classifier.to(device_by_name(device)), about)


def judged(config: ModelConfig) -> ModelConfig:
    """Return a model's section for evaluation: a name alone means its pretrained weights.

    Raises:
        InputError: If an architecture has no pretrained weights.
    """
    if not config.is_fresh:
        return config
    if not source_of(config.name)[0].prefix:
        raise InputError(
            f"{config.name} is an architecture with fresh weights, of which there is nothing to know; give --weights, "
            "or the folder of a run."
        )
    return replace(config, pretrained=True)


def describe(model: Classifier, name: str, which: str | None) -> dict[str, Any]:
    """Return the description of a model for result files.

    Args:
        model: Model.
        name: Name of the model.
        which: Weights of a run; None for other models.
    """
    spec = model.spec
    return {
        "model": name,
        "which": which,
        "architecture": spec.architecture,
        "parameters": count_parameters(model),
        "fingerprint": fingerprint_of_model(model),
    }


def default_folder(model: str, kind: str, test_set: TestSet, which: str) -> Path | None:
    """Return the folder for the results of a run, inside the run's folder; None for other models."""
    if not _is_run(model):
        return None
    return _path(model) / kind / f"{which}-{test_set.threat.norm}-{test_set.threat.eps:.4g}-{len(test_set.images)}"


def check_earlier_result(path: Path, about: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """Return the result of an earlier call with the same description, or {}; the present call adds to it.

    Args:
        path: Path of a result file.
        about: Description that must be the same.
        overwrite: Whether a result with another description may be replaced.

    Raises:
        InputError: If the file has another description and may not be replaced.
    """
    try:
        old = load_json(path)
        different = [name for name in about if old.get(name) != about[name]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        old, different = {}, ["content"]
    if not different:
        return old
    if overwrite:
        return {}
    raise InputError(
        f"{str(path)!r} holds other results (another {', another '.join(different)}); choose another --out, or replace "
        "them with --overwrite."
    )


def recipe_of(model: str) -> dict[str, Any]:
    """Return the recipe in a run's folder as plain data; {} if there is none."""
    path = _path(model)
    folder = path if path.is_dir() else path.parent
    return (read_config(folder) if path.exists() else None) or {}


def _data_config(models: Sequence[str], recipe: dict[str, Any], data: str | None, root: Path | None) -> DataConfig:
    given = None if root is None else str(root)
    if data is not None:
        return DataConfig(data, given)
    if "data" not in recipe:
        bare = next((f", and the folder {model!r} holds no run" for model in models if Path(model).is_dir()), "")
        raise InputError(
            f"no data set was given{bare}; name one with --data, for example {', '.join(available_data())}."
        )
    saved = DataConfig(**(recipe["data"] | {"extra": None}))
    return saved if given is None else replace(saved, root=given)


def make_folder(folder: Path) -> None:
    """Create the folder of results, before the work.

    Raises:
        InputError: If it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_writing(folder)
    except OSError as error:
        raise InputError(
            f"results cannot be written to {str(folder)!r} ({error.strerror}); choose another --out."
        ) from None


def _is_run(model: str) -> bool:
    return _path(model).is_dir()


def _path(model: str) -> Path:
    return Path(model.removeprefix("run:").removeprefix("file:")).expanduser()
