"""The one place where a recipe becomes objects and a run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from kdiga.data import DataSet, Images, MixedSet, load_data, split
from kdiga.data.extra import load_extra
from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.models import Classifier, count_parameters, load_model, save_model
from kdiga.models.imagenet import CLASSES, are_wordnet_ids, indices_of
from kdiga.models.registry import source_of
from kdiga.recipes.schema import DataConfig, ModelConfig, Recipe
from kdiga.runs.folder import RESULT, exclusive_run, prepare_run_folder, read_result, write_config, write_result
from kdiga.teachers import CachedTeacher
from kdiga.training import TrainingResult, distill
from kdiga.training.loop import OnChoice, OnEpoch, OnStep
from kdiga.training.resume_state import remove_state
from kdiga.training.runtime import device_by_name
from kdiga.training.sanity_checks import OnWarning
from kdiga.workflows.class_names import check_classes
from kdiga.workflows.pseudo_labels import labelled_by

WEIGHTS_STREAM, TEACHER_STREAM = 1, 2  # which of the seed's random streams initial weights come from
SUBSET_SEED = 0  # which training images a recipe with train_examples uses, whatever its own seed


class RunModels(NamedTuple):
    """The networks of one run; teachers that the recipe does not name are None."""

    student: Classifier
    teacher: Classifier | None
    second_teacher: Classifier | None


def load_recipe_data(config: DataConfig) -> DataSet:
    """Return the data that a section describes.

    Raises:
        InputError: if it cannot be had, or has fewer training images than asked for.
    """
    data = load_data(config.name, root=config.root, **asdict(config.reading))
    train, wanted, held = data.train, config.train_examples, len(data.train)
    if wanted is not None and wanted > held:
        raise InputError(f"train_examples was {wanted}; {config.name} has {held} training images.")
    if wanted is not None and wanted < held:
        _, subset = split(train, wanted / held, SUBSET_SEED)
        train = subset.take(slice(wanted))  # a share rounds up
    if config.extra is not None and not isinstance(train, MixedSet):
        more = load_extra(Path(config.extra.path), train, config.reading)
        train = MixedSet(train, more, config.extra.share)
    return replace(data, train=train)


def build_models(recipe: Recipe, data: DataSet) -> RunModels:
    """Return the student, freshly initialised by the recipe's seed or loaded, and the teachers.

    Raises:
        InputError: if one cannot be built or does not fit the data.
    """
    with seeded(recipe.training.seed, WEIGHTS_STREAM):
        student = build_model(recipe.student, data.train)
    # A stream of its own: a teacher that starts fresh must not change the student's weights, nor equal them.
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
    """Return the model that a section describes, for images like ``data``'s."""
    # Fresh weights may have any normalisation; trained ones have theirs, or must be told it.
    normalization = config.normalization or ("data" if config.is_fresh else None)
    model = _loaded(
        config,
        normalization=data.moments() if normalization == "data" else normalization,
        classes=data.classes if config.classes == "imagenet" else config.classes,
        images=(data.in_channels, data.image_size, _outputs(config, data)),
    )
    return fitted_to(model, data)


def load_model_without_data(config: ModelConfig) -> Classifier:
    """Return the model that a section describes, where no data are at hand.

    Raises:
        InputError: if the section leaves something to the data.
    """
    if config.normalization == "data" or config.classes == "imagenet":
        raise InputError("normalization: data and classes: imagenet need data to be read from; name a data set.")
    return _loaded(config, normalization=config.normalization, classes=config.classes, images=None)


def _loaded(config: ModelConfig, **of_data: Any) -> Classifier:
    return load_model(
        config.name,
        weights=config.weights,
        num_classes=config.num_classes,
        image_size=config.image_size,
        activation=config.activation,
        pretrained=config.pretrained,
        which=config.which,
        architecture=config.architecture,
        matched=config.matched,
        options=config.options,
        **of_data,
    )


def _outputs(config: ModelConfig, data: Images) -> int:
    """Return how many outputs a network needs for the data: pretrained ones keep ImageNet's, to be picked from."""
    brings = config.pretrained or (source_of(config.name)[0].brings_weights and config.architecture is None)
    return CLASSES if brings and are_wordnet_ids(data.classes) else data.num_classes


def fitted_to(model: Classifier, data: Images) -> Classifier:
    """Return the model for images like ``data``'s, where it needs something in front or behind.

    Images are resized, and grey is turned to colour or back. A network of ImageNet's 1,000 classes for data whose
    classes are named by their WordNet ids gives the logits of those.
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
    """Check that a model takes these images and tells as many classes apart.

    Raises:
        InputError: naming both sides of the mismatch.
    """
    wants, has = model.spec.takes, (data.in_channels, data.image_size, data.num_classes)
    if wants != has:
        raise InputError(
            f"the {role} {model.spec.name} takes {_shape(wants)} and the data has {_shape(has)}; teacher, "
            f"student and data must agree. Name another model or another data set{_classes_hint(wants, has)}."
        )


def _classes_hint(wants: tuple[int, int, int], has: tuple[int, int, int]) -> str:
    if wants[2] <= has[2]:
        return ""
    return ", or pick the data's classes among the network's by classes: imagenet, or a list of indices"


def _shape(shape: tuple[int, int, int]) -> str:
    channels, size, classes = shape
    return f"{channels}x{size}x{size} images of {classes} classes"


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    data: DataSet | None = None,
    models: RunModels | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    on_choice: OnChoice | None = None,
    on_warning: OnWarning | None = None,
) -> dict[str, Any]:
    """Train what a recipe describes, in a folder of its own, and return ``result.json``'s content.

    Writes ``config.yaml``, ``journal.jsonl`` and, only if training ended well, ``best.safetensors``,
    ``last.safetensors`` and ``result.json``. Of several processes each makes the call, and the first one writes.

    Args:
        recipe: validated.
        out: folder of the run.
        resume: continue the run in ``out``; a finished one is returned as it is.
        overwrite: replace the run in ``out``.
        data: the recipe's data, if it is loaded already.
        models: what :func:`build_models` returned for it, if they are built already; of no use to rounds, which build
            each their own.
        on_step: see :func:`kdiga.distill`.
        on_epoch: see :func:`kdiga.distill`.
        on_choice: see :func:`kdiga.distill`.
        on_warning: see :func:`kdiga.distill`.

    Raises:
        InputError: if anything in the recipe cannot be had, or ``out`` holds another run.
        DivergedError: if training failed; no weights are left.
    """
    data = data or load_recipe_data(recipe.data)
    if recipe.rounds is not None:
        from kdiga.workflows.rounds import run_rounds

        listeners = {"on_step": on_step, "on_epoch": on_epoch, "on_choice": on_choice, "on_warning": on_warning}
        return run_rounds(recipe, out, data, resume=resume, overwrite=overwrite, **listeners)
    process_group = ProcessGroup.here(device_by_name(recipe.training.device))
    models = models or build_models(recipe, data)
    finished = process_group.told(resume and (out / RESULT).is_file())
    # Before the folder is claimed: a store that does not fit must not cost the run that --overwrite replaces.
    stored = None if finished else _stored_teacher(recipe, models.teacher, data)
    with ExitStack() as stack:
        process_group.first(lambda: stack.enter_context(exclusive_run(out)))
        process_group.first(lambda: prepare_run_folder(out, resume=resume, overwrite=overwrite))
        if finished:
            return process_group.first(lambda: _earlier_result(out))
        if process_group.leads:
            write_config(out, recipe.to_dict())
        data = _labelled(recipe, models.teacher, data)
        outcome = distill(
            models.student,
            stored or models.teacher,
            data.train,
            method=recipe.method,
            second_teacher=models.second_teacher,
            threat=recipe.threat,
            out=out,
            resume=resume,
            on_step=on_step,
            on_epoch=on_epoch,
            on_choice=on_choice,
            on_warning=on_warning,
            **asdict(recipe.training),
        )
        result = _result(recipe, data, models, outcome, stored)
        if process_group.leads:
            _write(recipe, out, models.student, outcome, result)
        process_group.told(None)  # whoever goes on to read the weights finds them
    return result


def _labelled(recipe: Recipe, teacher: Classifier | None, data: DataSet) -> DataSet:
    extra = recipe.data.extra
    if extra is None or extra.labels != "teacher" or teacher is None:
        return data
    return labelled_by(teacher, data, device_by_name(recipe.training.device))


def _result(
    recipe: Recipe, data: DataSet, models: RunModels, outcome: TrainingResult, stored: CachedTeacher | None
) -> dict[str, Any]:
    student, teacher, _ = models
    return (
        outcome.to_dict()
        | {
            "threat": asdict(recipe.threat),
            "data": {
                "name": data.name,
                "source": data.source,
                "classes": list(data.train.classes),
                "notes": list(data.notes),
            },
            "parameters": {
                "student": count_parameters(student),
                "teacher": None if teacher is None else count_parameters(teacher),
            },
        }
        | ({} if stored is None else {"teacher_cache": stored.about()})
    )


def _write(recipe: Recipe, out: Path, student: Classifier, outcome: TrainingResult, result: dict[str, Any]) -> None:
    about = {"method": outcome.method, "seed": outcome.seed, "threat": asdict(recipe.threat), "data": recipe.data.name}
    for which, state in (("last", outcome.last_state), ("best", outcome.best_state)):
        student.load_state_dict(dict(state))
        save_model(student, out / f"{which}.safetensors", which=which, **about)
    write_result(out, result)
    remove_state(out)  # not before: the disk may have been too full for the weights


def _earlier_result(out: Path) -> dict[str, Any]:
    result = read_result(out)
    remove_state(out)  # of a process that was killed before it did so
    return result


def _stored_teacher(recipe: Recipe, teacher: Classifier | None, data: DataSet) -> CachedTeacher | None:
    if recipe.cache is None or teacher is None:
        return None
    from kdiga.workflows.cache import stored_teacher

    return stored_teacher(recipe, recipe.cache, teacher, data)
