"""Models and test sets of a command line, for evaluation and analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdiga.data import FileSet, ImageSet, available_data
from kdiga.data.file_set import first_images
from kdiga.data.image_set import to_pixels
from kdiga.errors import InputError, check_at_least
from kdiga.model_state import device_of
from kdiga.models import Classifier
from kdiga.models.registry import source_of
from kdiga.models.sources.zoo import zoo_index
from kdiga.recipes.schema import DataConfig, ModelConfig
from kdiga.runs.fingerprints import describe_model, fingerprint_of_images
from kdiga.runs.run_folder import CONFIG, read_config
from kdiga.runs.trained_images import count_trained
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.training.runtime import device_by_name
from kdiga.training.validation import validation_subset
from kdiga.types import ThreatModel

if TYPE_CHECKING:
    from kdiga.analysis.measures import Measurements
    from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.workflows.identity import NOTED as STARTED
from kdiga.workflows.identity import read_identity
from kdiga.workflows.prepare import build_model, check_classes, check_fits, load_recipe_data
from kdiga.workflows.requests import JudgeRequest, ModelRequest

DEFAULTS = JudgeRequest()


@dataclass(frozen=True)
class TestSet:
    """The test images and the threat model of an evaluation."""

    images: ImageSet  # test images
    source: ImageSet | FileSet  # the same, as they were read
    threat: ThreatModel  # norm and eps
    data: str  # name of the data set
    folder: Path | None = None  # folder that the name starts from, if not the present one

    def about(self) -> dict[str, Any]:
        """Return the description for result files, as plain data."""
        return {
            "data": self.data,
            "data_fingerprint": fingerprint_of_images(self.images),
            "examples": len(self.images),
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            **({} if self.folder is None else {"data_from": str(self.folder)}),
        }


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with its description."""

    model: nn.Module  # model, on its device
    # Description for result files, plain data: name, weights, architecture, parameters and fingerprint.
    about: dict[str, Any]

    @property
    def classifier(self) -> Classifier:
        """The model, if it was loaded by a name."""
        assert isinstance(self.model, Classifier)
        return self.model

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return device_of(self.model)


def load_test_set(models: Sequence[str], asked: JudgeRequest = DEFAULTS) -> TestSet:
    """Return the test set of models: the values asked for, and the recipe of the first run for the others.

    Raises:
        InputError: If no data set is known, or fewer than 1 example is asked for.
    """
    config, threat = _of_runs(models, asked)
    check_at_least(1, examples=asked.examples)
    located, folder = _located(models, asked, config)
    test = load_recipe_data(located.for_test).test
    test = test if asked.examples is None else test.take(slice(asked.examples))
    return TestSet(first_images(test, None), test, threat, config.name, folder)


def training_images(model: str, count: int, asked: JudgeRequest) -> Tensor:
    """Return training images of the data that :func:`load_test_set` finds, float (example, channel, height, width).

    They are always the same ones, with each class in its proportion.
    """
    config = replace(_of_runs([model], asked)[0].for_test, train_examples=count)
    train = validation_subset(load_recipe_data(_located([model], asked, config)[0]).train, count)
    return torch.cat([images for images, _ in train.batches()])


def _located(models: Sequence[str], asked: JudgeRequest, config: DataConfig) -> tuple[DataConfig, Path | None]:
    """Return a section ``data`` whose relative paths start where the run was started, and that folder if it is used."""
    prefix = next((known for known in ("wds:", "hf:") if config.name.startswith(known)), "")
    path = config.root or config.name.removeprefix(prefix)
    if asked.data or asked.root or path in available_data() or Path(path).expanduser().is_absolute():
        return config, None
    folder = next((found for found in map(_folder_of, models) if (found / CONFIG).is_file()), None)
    started = None if folder is None else read_identity(folder).get(STARTED)
    if not isinstance(started, str) or Path(started) == Path.cwd():
        return config, None
    if not (Path(started, path).exists() or (prefix == "wds:" and Path(started).is_dir())):  # shards have a pattern
        return config, None
    whole = str(Path(started, path))
    return replace(config, root=whole) if config.root else replace(config, name=prefix + whole), Path(started)


def load_judged_model(
    model: str, test_set: TestSet, asked: ModelRequest = DEFAULTS, role: str = "model"
) -> LoadedModel:
    """Return a model, by any name that a recipe accepts, for a test set; ``role`` stands in messages.

    Raises:
        InputError: If it cannot be loaded, takes other images, or has fresh weights.
    """
    images = test_set.images
    classifier = build_model(judged(model, asked), images)
    check_fits(role, classifier, images)
    check_classes(role, model, images.classes)
    name = model if asked.weights is None else f"{model} {asked.weights}"
    about = describe_model(classifier, name, asked.which if _path(model).is_dir() else None)
    return LoadedModel(classifier.to(device_by_name(asked.device)), about)


def load_with_test_set(
    request: JudgeRequest, model: str, *others: str, role: str = "model"
) -> tuple[LoadedModel, TestSet]:
    """Return the model that a request's weights are for, and the test set of it and of the others."""
    weights = [] if request.weights is None else [str(request.weights)]
    test_set = load_test_set([model, *weights, *others], request)
    return load_judged_model(model, test_set, request, role), test_set


def measurements_on(
    test_set: TestSet, search: WorstCaseSearch, seed: int, cache: ResultCache, progress: OnProgress | None
) -> Measurements:
    """Return what an analysis measures of models on a test set."""
    from kdiga.analysis.measures import Measurements  # here, because it loads scipy.stats

    images, labels = to_pixels(test_set.images.images), test_set.images.labels
    return Measurements(
        images, labels, threat=test_set.threat, search=search, seed=seed, result_cache=cache, on_progress=progress
    )


def judged(name: str, asked: ModelRequest, **more: Any) -> ModelConfig:
    """Return a model's section for evaluation: a source's name alone means its pretrained weights.

    "pretrained" as normalisation means the source's own weights, which may lie in a file.
    """
    fetched = asked.normalization == "pretrained"
    config = ModelConfig(
        name,
        weights=None if asked.weights is None else str(asked.weights),
        normalization=None if fetched else asked.normalization,
        pretrained=fetched,
        which=asked.which,
        **more,
    )
    if not config.is_fresh:
        return config
    if not source_of(name)[0].prefix:
        raise InputError(
            f"{name} is an architecture with fresh weights, so it was not trained; give --weights, or the "
            "folder of a run."
        )
    return replace(config, pretrained=True)


def count_trained_images(model: str, test_set: TestSet) -> int | None:
    """Return how many test images a model's run was trained on; None if unknown."""
    return count_trained(_folder_of(model), test_set.source, test_set.images)


def result_folder(request: JudgeRequest, model: str, kind: str, test_set: TestSet) -> Path | None:
    """Return the folder of results: the request's, else one in the run folder; None for a model without a run."""
    run, which, threat = _path(model), request.which, test_set.threat
    if not run.is_dir() and request.weights is not None and (request.weights.parent / CONFIG).is_file():
        run, which = request.weights.parent, request.weights.stem  # own code with the weights of a run
    if request.out is not None or not run.is_dir():
        return request.out
    return run / kind / f"{which}-{threat.norm}-{threat.eps:.4g}-{len(test_set.images)}"


def recipe_of(model: str) -> dict[str, Any]:
    """Return the recipe in a run's folder, or data and threat model of ``zoo:NAME``, as plain data; {} for neither."""
    prefix, _, name = model.partition(":")
    if prefix == "zoo" and name in zoo_index():
        return {"data": {"name": zoo_index()[name]["data"]}, "threat": zoo_index()[name]["threat"]}
    return (read_config(_folder_of(model)) if _path(model).exists() else None) or {}


def _of_runs(models: Sequence[str], asked: JudgeRequest) -> tuple[DataConfig, ThreatModel]:
    """Return data and threat model as asked for, else those in the recipe of the first run."""
    recipe = next((found for found in map(recipe_of, models) if found), {})
    given, root = recipe.get("threat", {}), None if asked.root is None else str(asked.root)
    eps = given.get("eps", "8/255") if asked.eps is None else asked.eps
    threat = ThreatModel.parse(asked.norm or given.get("norm", "linf"), eps)
    if asked.data is not None:
        return DataConfig(asked.data, root), threat
    if "data" not in recipe:
        known = next((reason for model in models if (reason := _why_no_run(model))), "")
        raise InputError(
            f"no data set was given{known}; name one with --data, for example {', '.join(available_data())}."
        )
    saved = DataConfig(**(recipe["data"] | {"extra": None}))
    return saved if root is None else replace(saved, root=root), threat


def _why_no_run(model: str) -> str:
    """Return, as the end of a sentence, why a path tells nothing of data; an empty text for other names."""
    if Path(model).is_dir():
        return f", and the folder {model!r} holds no run"
    is_path = model.startswith(("run:", "file:")) or ("/" in model and ":" not in model)
    return f", and {model!r} does not exist" if is_path and not _path(model).exists() else ""


def _folder_of(model: str) -> Path:
    path = _path(model)
    return path if path.is_dir() else path.parent


def _path(model: str) -> Path:
    return Path(model.removeprefix("run:").removeprefix("file:")).expanduser()
