"""The identity of a run: its recipe in ``config.yaml``, and in ``identity.json`` what the recipe only names."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from kdiga.data import DataSet
from kdiga.errors import InputError, some
from kdiga.io.safe_json_yaml import load_json
from kdiga.recipes.schema import Recipe
from kdiga.recipes.validate import recipe_from_dict
from kdiga.runs.fingerprints import fingerprint_of_images, fingerprint_of_model
from kdiga.runs.provenance import installed_version
from kdiga.runs.run_folder import CONFIG, IDENTITY, read_config, write_config, write_json
from kdiga.runs.trained_images import write_trained_images
from kdiga.training.resume import CHANGEABLE
from kdiga.workflows.prepare import PreparedRun

SHOWN = 3  # differences that a message names
MODELS = ("student", "teacher", "second_teacher")
# Keys that name files or places; where the content behind them is known, it is compared instead.
NAMES = (
    *("data.name", "data.root", "data.in_memory", "data.workers", "data.extra.path", "cache.folder"),
    *(f"{role}.{key}" for role in MODELS[1:] for key in ("name", "weights")),
)
NOTED = "started in"  # recorded and never compared


def contents_of(run: PreparedRun) -> dict[str, str | None]:
    """Return the version of kdiga, and hashes of the data and of the weights that a run starts from."""
    loaded = dict(zip(MODELS, run.models, strict=True))
    if run.recipe.student.is_fresh:
        loaded["student"] = None
    weights = {
        f"{role.replace('_', ' ')} weights": model and fingerprint_of_model(model) for role, model in loaded.items()
    }
    return contents_of_data(run.data) | weights


def contents_of_data(data: DataSet) -> dict[str, str | None]:
    """Return the version of kdiga, hashes of the images, and the names of the classes."""
    return {
        "kdiga": installed_version("kdiga"),
        "training images": fingerprint_of_images(data.train),
        "test images": fingerprint_of_images(data.test),
        **{f"class {number}": name for number, name in enumerate(data.train.classes)},
    }


def write_identity(run: PreparedRun, folder: Path) -> None:
    """Write the resolved recipe, the content of what it names, and hashes of the training images."""
    write_trained_images(folder, run.data.train)
    write_config(folder, run.recipe.to_dict())
    write_json(folder / IDENTITY, contents_of(run) | {NOTED: str(Path.cwd())})


def read_identity(folder: Path) -> dict[str, Any]:
    """Return what a run's recipe named when it started; {} for a run of an earlier version."""
    try:
        found = load_json(folder / IDENTITY)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder / IDENTITY)!r} cannot be read ({error}); train the run again.") from None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def check_same_run(run: PreparedRun, folder: Path) -> None:
    """Check that the run in a folder has the recipe of this one, the same data, teachers and version.

    Raises:
        InputError: If it has not; the message has both values.
    """
    saved = read_config(folder)
    if saved is None:
        return
    contents = read_identity(folder)
    try:
        there = plain_recipe(recipe_from_dict(saved, origin=str(folder / CONFIG)))
    except InputError as error:
        raise InputError(f"the run in {str(folder)!r} was made by another version ({error}).") from None
    here = contents_of(run)
    free = {*CHANGEABLE, *(NAMES if contents else ())}
    if contents.get("student weights") and here["student weights"]:  # both start from weights, which are compared
        free |= {"student.name", "student.weights"}
    different = differences(there, plain_recipe(run.recipe), free) or different_contents(contents, here)
    if different:
        raise InputError(
            f"the run in {str(folder)!r} is another one: {different}; resume with the same recipe, replace it with "
            "--overwrite, or choose another --out."
        )


def different_contents(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in words how contents differ, for those that both know."""
    known = {key: value for key, value in here.items() if key in there}
    return differences({key: there[key] for key in known}, known)


def differences(there: Mapping[str, Any], here: Mapping[str, Any], free: Collection[str] = ()) -> str:
    """Return the first keys with different values, in words; an empty text if all are the same."""

    def shown(content: Mapping[str, Any], key: str) -> str:
        if key not in content:
            return "missing"
        value = content[key]
        if isinstance(value, list):
            return "[" + ", ".join(map(_short, cast("list[Any]", value))) + "]"
        return _short(value)

    found = [(key, shown(there, key), shown(here, key)) for key in {**there, **here} if key not in free]
    return some(
        [f"{key} is {old} there and {new} here" for key, old, new in found if there.get(key, "") != here.get(key, "")],
        SHOWN,
    )


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as values by dotted key."""
    return flat(recipe.to_dict())


def flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data as JSON has it, with values by dotted key."""
    return dict(_flat(json.loads(json.dumps(content))))


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else repr(value)  # 64 characters are a hash
