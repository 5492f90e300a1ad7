"""Weights on disk: our safetensors files, which know their architecture, other safetensors, ``.pt`` files and ONNX.

Nothing here unpickles: ``torch.load`` runs with ``weights_only=True``.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kdiga.errors import InputError, reason_of, some
from kdiga.models.registry import Classifier, ModelSpec

WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "student")
NAMED = 4  # tensors that a message names


class Checkpoint(NamedTuple):
    """What a file of weights holds.

    Args:
        state: tensors by name.
        spec: of the model, if the file is ours.
        notes: what was left aside to get at the tensors, a sentence each.
    """

    state: dict[str, Tensor]
    spec: ModelSpec | None
    notes: tuple[str, ...] = ()


def save_model(model: nn.Module, path: str | Path, **about: Any) -> None:
    """Write a model's weights, and its spec where it has one, atomically to a safetensors file.

    Args:
        model: any module; a :class:`Classifier` can be loaded again by path alone.
        path: where to; a file there is replaced at once or not at all.
        about: plain data kept beside the spec, such as the method and the seed.
    """
    path = Path(path)
    spec = model.spec.to_dict() if isinstance(model, Classifier) else None
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"kdiga": json.dumps({"spec": spec, "about": about})})
    os.replace(partial, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a file.

    Accepts ``.safetensors``; ``.pt``, ``.pth``, ``.th``, ``.ckpt`` and the like holding a state dict, bare or under
    "state_dict", "model", "net" and so on, or in a one-element list; and the weights in an ``.onnx`` file.

    Raises:
        InputError: for a missing file, a file of another kind, or a pickle that holds more than tensors; it names
            what the pickle would have run.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {str(path)!r} does not exist; give a .safetensors or .pt file, or a run folder.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".onnx":
        from kdiga.models.onnx_weights import read_onnx

        return Checkpoint(read_onnx(path), None)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is not a checkpoint of tensors alone ({why_refused(error)}); accepted: .safetensors, or a "
            "state dict saved by torch.save(model.state_dict(), path)."
        ) from None
    return _state_dict(loaded, path)


def why_refused(error: Exception) -> str:
    """Return why torch could not read a file, in a few words: for a pickle, what it would have run."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"it is a pickle that would run {wanted[1]}, which is refused"
    if "Weights only load failed" in str(error):
        return "it is not a file that torch.save wrote"  # torch's own words are about its defaults, not about the file
    return reason_of(error)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> tuple[str, ...]:
    """Put a state dict into a model, every tensor accounted for.

    Args:
        model: filled in place.
        state: tensors by name.
        path: where they came from, for messages.

    Returns:
        What was done to make them fit, a sentence each.

    Raises:
        InputError: if keys are missing or left over, or shapes differ; it lists them.
    """
    target = model.state_dict()
    # Checkpoints from before PyTorch 0.4.1 lack batch norm's step counter, which evaluation never reads.
    counters = {key: value for key, value in target.items() if key.endswith(".num_batches_tracked")}
    state_given = set(state)
    state = counters | dict(state)
    missing, extra = sorted(target.keys() - state.keys()), sorted(state.keys() - target.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in target.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [f"missing {some(missing, NAMED)}"] * bool(missing) + [f"unexpected {some(extra, NAMED)}"] * bool(extra)
    problems += [some(shapes, NAMED)] * bool(shapes)
    if problems:
        raise InputError(
            f"{str(path)!r} does not fit the model: {'; '.join(problems)}. It holds another architecture, number of "
            f"classes or image size; name the one it was made for{_imagenet_hint(model, state)}."
        )
    filled = len(counters.keys() - state_given)
    model.load_state_dict(state)
    return (f"{filled} step counters of batch norm, which old files lack, were set to 0",) * bool(filled)


def _imagenet_hint(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    thousand = [key for key, value in state.items() if value.dim() and len(value) == 1000]
    differs = any(key in thousand and len(value) != 1000 for key, value in model.state_dict().items() if value.dim())
    return " (1,000 ImageNet classes: give classes: imagenet, to pick those of the data)" if differs else ""


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        ours = json.loads(metadata.get("kdiga", "{}"))
        spec = ModelSpec.from_dict(ours["spec"]) if ours.get("spec") else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} is not a readable safetensors checkpoint ({error}); copy or train it again."
        ) from None
    return Checkpoint(state, spec)


def _state_dict(loaded: object, path: Path) -> Checkpoint:
    notes: list[str] = []
    while True:
        if isinstance(loaded, list) and len(cast("list[object]", loaded)) == 1:
            loaded = cast("list[object]", loaded)[0]
            continue
        if isinstance(loaded, Mapping):
            mapping = cast("Mapping[str, object]", loaded)
            wrapper = next((name for name in WRAPPERS if isinstance(mapping.get(name), Mapping | list)), None)
            if wrapper is not None:
                others = sorted(str(name) for name in mapping if name != wrapper)
                notes.append(f"weights under {wrapper!r}" + f", beside {some(others, NAMED)}" * bool(others))
                loaded = mapping[wrapper]
                continue
            state = {key: value for key, value in mapping.items() if isinstance(value, Tensor)}
            if state and len(state) == len(mapping):
                return Checkpoint(state, None, tuple(notes))
        raise InputError(
            f"{str(path)!r} holds no state dict; accepted: tensors by name, bare or under {', '.join(WRAPPERS)}."
        )
