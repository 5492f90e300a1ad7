"""Where data sets are looked for, and what to say when one is nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError

from kdiga.errors import InputError

T = TypeVar("T")


def roots(given: Path | None, *more: Path) -> list[Path]:
    """Return the folders to look in, in order: the given root, ``$KDIGA_DATA``, ``more``.

    Raises:
        InputError: if the given root does not exist.
    """
    if given is not None and not given.is_dir():
        raise InputError(
            f"data root {str(given)!r} is not a folder; give the folder that holds the data, or leave it out."
        )
    environment = os.environ.get("KDIGA_DATA")
    folders = [given] if given is not None else []
    folders += [Path(environment).expanduser()] if environment else []
    return [*folders, *more, download_folder(None)]


def download_folder(given: Path | None) -> Path:
    """Return where a download goes: the given root, else ``$KDIGA_DATA``, else the user's cache."""
    if given is not None:
        return given
    if environment := os.environ.get("KDIGA_DATA"):
        return Path(environment).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kdiga"


def download(name: str, fetch: Callable[[], T], looked_in: Sequence[Path], by_hand: str) -> T:
    """Run a torchvision download, or say what to do without a network.

    Raises:
        InputError: if it fails; it names where the data was looked for.
    """
    try:
        return fetch()
    except (URLError, OSError, RuntimeError) as error:
        places = ", ".join(str(folder) for folder in dict.fromkeys(looked_in))
        raise InputError(
            f"{name} is not in {places} and could not be downloaded ({str(error).splitlines()[0][:100]}); {by_hand}, "
            "or name the folder that holds it with --root or $KDIGA_DATA."
        ) from None
