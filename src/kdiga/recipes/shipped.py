"""The recipes that come with kdiga, by name.

In a wheel they are in this module's folder, in a checkout in its folder ``recipes``; the build copies them.
"""

from __future__ import annotations

from pathlib import Path

from kdiga.errors import InputError, nearest, unknown

_HERE = Path(__file__).parent
_FOLDERS = (_HERE, _HERE.parents[2] / "recipes")  # a wheel's, a checkout's


def shipped() -> dict[str, Path]:
    """Return the recipes' files by name."""
    files = (path for folder in _FOLDERS for path in sorted(folder.glob("*.yaml")))
    found: dict[str, Path] = {}
    for path in files:
        found.setdefault(path.stem, path)
    return found


def about(path: Path) -> str:
    """Return the description of a recipe: its first line, if that is a comment."""
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find_recipe(given: str | Path, what: str = "recipe") -> Path:
    """Return the file at a path, or the file with that name that comes with kdiga; ``what`` it is, for messages.

    A file at the path has priority over a name; a folder, such as that of a run, has not.

    Raises:
        InputError: If there is neither; the message has the nearest names.
    """
    path = Path(given)
    if path.is_file():
        return path
    recipes = shipped()
    if str(given) in recipes:
        return recipes[str(given)]
    if path.exists():
        return path
    if path.name == str(given) and not path.suffix:
        raise unknown(what, str(given), recipes, "Give a path, or a name that `kdiga recipes` lists.")
    close = nearest(path.stem, recipes, most=1)
    hint = f"; {close[0]!r} comes with kdiga, give that name" if close else ""
    raise InputError(f"{what} {str(path)!r} cannot be read (there is no such file); give a YAML file{hint}.")
