"""What a damaged file says, looked up without kdiga: what was read has to be that, or what was there before."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import yaml

from kdiga.models.checkpoint import WRAPPERS


def held_by(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a file of torch.save, by name, out of what is wrapped around them."""
    content = path.read_bytes()
    if content[:4] == b"PK\3\4":
        assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None, "damaged parts were read"
    held = loaded(content)
    for _ in range(10):
        if isinstance(held, list):
            held = held[0]
        elif any(isinstance(held.get(name), dict | list) for name in WRAPPERS):
            held = next(held[name] for name in WRAPPERS if isinstance(held.get(name), dict | list))
    return held


def loaded(content: bytes) -> Any:
    """Return what torch.save wrote.

    A damaged sparse tensor that torch refused makes it refuse the next file of the process, whatever that holds.
    """
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except RuntimeError:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def check_tensors(network: torch.nn.Module, held: Mapping[str, torch.Tensor], *, by_name: bool = True) -> None:
    """Check that every number of a network is that of the tensor of its name, or of one of the same form."""
    for name, value in network.state_dict().items():
        named = [one for key, one in held.items() if not by_name or key == name or key.endswith(f".{name}")]
        if named or not name.endswith("num_batches_tracked"):
            assert any(_same(value, one) for one in named), f"{name} has other numbers than the file"


def _same(value: torch.Tensor, told: torch.Tensor) -> bool:
    return value.shape == told.shape and torch.equal(value, told.to(value.dtype))


def check_leaves(given: Any, understood: Any, place: str = "") -> None:
    """Check that numbers, and texts that are none, are understood as a recipe gives them."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key in given.keys() & understood.keys():
            check_leaves(given[key], understood[key], f"{place}.{key}")
    elif isinstance(given, bool | int | float) and isinstance(understood, bool | int | float):
        same = isinstance(given, bool) == isinstance(understood, bool) and _near(given, understood)
        assert same, f"{place} is {given!r:.60} and was read as {understood!r:.60}"
    elif isinstance(given, str) and isinstance(understood, int | float) and not isinstance(understood, bool):
        assert math.isclose(Fraction(given.replace(" ", "")), understood), (
            f"{place} is {given!r:.60}, read as {understood!r:.60}"
        )
    elif isinstance(given, str) and isinstance(understood, str):
        known = given.casefold() if place.endswith(".norm") else given  # which may be written in any case
        assert known == understood, f"{place} is {given!r:.60} and was read as {understood!r:.60}"


def _near(one: float, other: float) -> bool:
    return one == other or (one != one and other != other) or math.isclose(one, other)


def yaml_of(path: Path) -> Any:
    """Return what YAML holds."""
    text = path.read_text()
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:  # the two differ in what they take
        return yaml.safe_load(text)


def json_of(path: Path) -> Any:
    """Return what JSON holds; None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None
