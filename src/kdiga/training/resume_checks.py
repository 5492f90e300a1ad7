"""Checks that a loaded state has the structure of a saved one.

A run uses most of the state long after loading, in the optimiser or at its end, where errors would be unclear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

from torch import Tensor
from torch.optim import SGD, Optimizer

from kdiga.training.result import EpochRecord

# Keys of a schedule that change during a run.
CHANGING = {
    "last_epoch",
    "_step_count",
    "_last_lr",
    "_get_lr_called_within_step",
    "_is_initial",
}

BY_DEVICE = ("fused", "foreach")  # options of an optimiser's groups that follow from the device


def check_structure(state: Mapping[str, Any], of_progress: set[str]) -> None:
    """Check the parts that do not depend on the run's models.

    Raises:
        ValueError: If a part has another structure; or another error, if the state has another type.
    """
    progress, history = state["progress"], state["history"]
    sound = {
        "progress": progress.keys() == of_progress
        and all(type(progress[name]) is int and progress[name] >= 0 for name in ("epoch", "position", "best_epoch"))
        and all(map(_is_number, (progress["spent"], progress["best_score"], progress["seconds"])))
        and progress["best_epoch"] <= max(0, len(history) - 1)
        and (progress["best_state"] is None or _are_tensors(progress["best_state"])),
        "history": isinstance(history, list) and len(history) == progress["epoch"] and all(map(_is_epoch, history)),
        "terms": _are_terms(state["terms"]),
        "journal_lines": type(state["journal_lines"]) is int and state["journal_lines"] >= 0,
        "passes": all(isinstance(key, str) and type(count) is int for key, count in state["passes"].items()),
        "choices": all(isinstance(one, dict) and {"chosen", "why"} <= one.keys() for one in state["choices"].values()),
        "own": isinstance(state["own"], list) and all(isinstance(one, dict) for one in state["own"]),
        "memory": all(isinstance(name, str) and _are_numbers(value) for name, value in state["memory"].items()),
    }
    wrong = [name for name, right in sound.items() if not right]
    if wrong:
        raise ValueError(f"its {wrong[0]} has another form")


def with_own_kernels(given: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved optimiser's state with a fresh one's choice of kernels, because the device may be another one."""
    pairs = zip(given["param_groups"], fresh["param_groups"], strict=True)
    return {**given, "param_groups": [group | {name: own[name] for name in BY_DEVICE} for group, own in pairs]}


def check_optimizer(optimizer: Optimizer, given: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Check an optimiser's state.

    Raises:
        ValueError: If the structures differ, or a parameter has other moments than the optimiser stores.
    """
    names = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    sound = same_structure(given["param_groups"], fresh["param_groups"]) and isinstance(given["state"], dict)
    for place, moments in given["state"].items():
        shape = parameters[place].shape
        sound = sound and moments.keys() == names
        sound = sound and all(_is_moment(name, value, shape) for name, value in moments.items())
    if not sound:
        raise ValueError("its optimizer has another form")


def check_schedule(given: Mapping[str, Any], fresh: Mapping[str, Any], steps: int) -> None:
    """Check a schedule's state; everything but its position follows from the settings.

    Raises:
        ValueError: If it is the state of another schedule, or beyond the end of the run.
    """
    same = given.keys() == fresh.keys() and all(given[name] == fresh[name] for name in fresh.keys() - CHANGING)
    if not (same and same_structure(given, fresh) and 0 <= given["last_epoch"] <= steps):
        raise ValueError("its schedule has another form")


def same_structure(given: object, fresh: object) -> bool:
    """Return whether plain data has the same keys, texts, lengths and types of values as other plain data."""
    if isinstance(fresh, Mapping):
        loaded, expected = cast("Mapping[Any, Any]", given), cast("Mapping[Any, Any]", fresh)
        return (
            isinstance(given, Mapping)
            and loaded.keys() == expected.keys()
            and all(same_structure(loaded[key], value) for key, value in expected.items())
        )
    if isinstance(fresh, list | tuple):
        loaded, expected = cast("Sequence[Any]", given), cast("Sequence[Any]", fresh)
        return (
            isinstance(given, list | tuple)
            and len(loaded) == len(expected)
            and all(map(same_structure, loaded, expected))
        )
    if isinstance(fresh, str):
        return given == fresh
    if isinstance(fresh, bool) or not isinstance(fresh, int | float):
        return type(given) is type(fresh)
    return _is_number(given)


def _is_epoch(record: dict[str, Any]) -> bool:
    numbers = [record["epoch"], record["lr"], record["seconds"], *record["terms"].values(), *record["weights"].values()]
    shares = [share for share in (record["clean"], record["robust"]) if share is not None]
    texts = all(isinstance(name, str) for name in (*record["terms"], *record["weights"]))
    known = record.keys() == {one.name for one in fields(EpochRecord)}
    return known and texts and all(map(_is_number, (*numbers, *shares)))


def _are_terms(terms: Mapping[str, Any]) -> bool:
    names, weights, rows = terms["names"], terms["weights"], terms["rows"]
    texts = isinstance(names, list) and all(isinstance(name, str) for name in cast("list[Any]", names))
    shaped = rows is None or (isinstance(rows, Tensor) and rows.dim() == 2 and rows.shape[1] == len(names))
    return texts and shaped and all(map(_is_number, dict(weights).values()))


def _is_moment(name: str, value: object, shape: Sequence[int]) -> bool:
    if value is None:  # before the first step, of SGD without momentum
        return name == "momentum_buffer"
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape == (() if name == "step" else shape)


def _is_number(value: object) -> bool:
    # Bounded, since integers in a pickle have any length.
    integer = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return integer or (isinstance(value, float) and math.isfinite(value))


def _are_numbers(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_are_numbers, cast("Sequence[Any]", value)))
    return isinstance(value, Tensor) or _is_number(value)


def _are_tensors(state: object) -> bool:
    named = cast("dict[Any, Any]", state) if isinstance(state, dict) else {None: None}
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in named.items())
