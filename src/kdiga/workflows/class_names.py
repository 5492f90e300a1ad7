"""Whether a trained model and some images mean the same classes by the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdiga.errors import InputError
from kdiga.io.safe_json_yaml import load_json
from kdiga.runs.folder import RESULT


def check_classes(role: str, model: str, classes: Sequence[str]) -> None:
    """Check that a run was trained on images of these classes, where both give them names.

    Args:
        role: what messages call the model.
        model: as a recipe or a command names it; only runs, and weights in them, know their classes.
        classes: of the images, in the order of their labels.

    Raises:
        InputError: naming a class that differs.
    """
    known = _classes_of(Path(model.removeprefix("run:")))
    if known is None or len(known) != len(classes) or _unnamed(known) or _unnamed(classes):
        return  # that their numbers differ is told with the model's shape
    for number, (own, given) in enumerate(zip(known, classes, strict=True)):
        if own != given:
            raise InputError(
                f"the {role} {model} was trained with class {number} named {own!r}, and the images have {given!r} "
                "there; its logits mean other classes. Give a model of these classes, or the images it was trained for."
            )


def _classes_of(path: Path) -> Sequence[str] | None:
    folder = path if path.is_dir() else path.parent
    try:
        found = load_json(folder / RESULT)["data"]["classes"] if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an earlier version's run, or none
    return found


def _unnamed(classes: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(classes))
