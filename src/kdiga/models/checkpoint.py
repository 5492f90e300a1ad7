"""Weights on disk: kdiga's safetensors files, which know their architecture, other safetensors, ``.pt`` and ONNX files.

Nothing here unpickles: ``torch.load`` runs with ``weights_only=True``. Checksums find damaged bytes: a model with a
flipped bit is another model that loads without an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kdiga.arguments import checked
from kdiga.errors import InputError, reason_of, some
from kdiga.io.atomic_write import replacing
from kdiga.io.safe_json_yaml import parse_json
from kdiga.io.untrusted_file import check_ordinary
from kdiga.model_output import NamedOutput
from kdiga.models.classifier import Classifier, ModelSpec

WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "student",
    "model_ema",
    "state_dict_ema",
    "ema",
)
COUNTERS = ("total_ops", "total_params")  # of thop, in every module
NAMED = 4  # tensors that a message names
WRAPPED = 8  # nested wrappers; those of a pickle may contain themselves
OF_FILE = "kdiga_own_"  # begins the names of the modules of own files
PACKED = 4  # times a file's size that its parts may take unpacked; torch.save does not compress


COLLAPSED = "its training collapsed, or never took off: these weights are no better than guessing"


class Checkpoint(NamedTuple):
    """Tensors of a file by name, the spec of the model if kdiga wrote it, and what was left out, a sentence each."""

    state: dict[str, Tensor]
    spec: ModelSpec | None
    notes: tuple[str, ...] = ()
    module: str = ""  # class of an own module that kdiga saved, "package.module:Class"; text, which is never imported


@checked
def save_model(model: nn.Module, path: str | Path, **about: Any) -> None:
    """Write a model's weights, and its spec where it has one, atomically to a safetensors file.

    A wrapper is left out: ``torch.compile``, ``DataParallel``, ``DistributedDataParallel``, a moving average,
    :class:`kdiga.NamedOutput`. For an own module the file states its class, and
    ``load_model("python:package.module:Class", weights=path)`` loads it again; the file alone never runs code.

    Args:
        model: Any module; a :class:`Classifier` of a built-in architecture or a source can be loaded by path alone.
        path: Path of the file; an existing file is replaced completely or not at all.
        about: Plain data to store with the spec, such as the method and the seed.

    Raises:
        InputError: If the path is a folder, or the model's state holds more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"path was {str(path)!r}, a folder; give the path of a file, such as student.safetensors.")
    model = unwrapped(model)
    check_state(model)
    spec = model.spec.to_dict() if isinstance(model, Classifier) else None
    tensors = _separate_tensors(model)
    ours = {"spec": spec, "about": about, "sum": hash_of_tensors(sorted(tensors.items()))}
    if spec is None:
        ours["module"] = _code_of(type(model))
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"kdiga": json.dumps(ours)})


def _code_of(kind: type[nn.Module]) -> str:
    """Return "package.module:Class", or "file.py:Class" for code that was loaded from a file."""
    where = kind.__module__
    if where.startswith(OF_FILE) and where in sys.modules:
        where = Path(str(sys.modules[where].__file__)).name
    return f"{where}:{kind.__qualname__}"


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers that only run it: compiled, parallel, averaged, or with a named output."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, parallel) or type(model).__name__.startswith("ModelEma"):
            model = cast("nn.Module", model.module)
        elif isinstance(model, NamedOutput):
            model = model.model
        else:
            return model


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state by name, without the extra state of a module that is no tensor."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def check_state(model: nn.Module) -> None:
    """Check that a model's state is tensors alone, the only thing that kdiga's files hold.

    Raises:
        InputError: For a module whose ``get_extra_state`` returns something else.
    """
    if other := sorted(model.state_dict().keys() - tensors_of(model).keys()):
        raise InputError(
            f"the state of {type(model).__name__} holds {some(other, NAMED)}, which is not a tensor and cannot be "
            "saved; keep it in buffers, or let get_extra_state return a tensor."
        )


def _separate_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model; each of several that share memory, such as tied weights, is a copy."""
    tensors, seen = dict[str, Tensor](), set[int]()
    for name, value in model.state_dict().items():
        tensors[name] = value.detach().cpu().contiguous()
        if (memory := tensors[name].untyped_storage().data_ptr()) in seen:
            tensors[name] = tensors[name].clone()
        seen.add(memory)
    return tensors


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a file.

    Accepts ``.safetensors``; ``.pt``, ``.pth``, ``.th``, ``.ckpt`` and the like holding a state dict, bare or under
    "state_dict", "model", "net" and so on, or in a one-element list; and the weights in an ``.onnx`` file.

    Raises:
        InputError: for a missing file, a file of another kind, a damaged file, or a pickle that holds more than
            tensors; it names what the pickle would have run.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {str(path)!r} does not exist; give a .safetensors or .pt file, or a run folder.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".onnx":
        from kdiga.models.onnx_weights import read_onnx_weights

        return Checkpoint(read_onnx_weights(path), None)
    try:
        check_sums(path)
        # Warnings are about kinds of tensors that are refused below.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_harmless()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # from damaged bytes torch raises nearly everything: IndexError, AssertionError, ...
        raise InputError(
            f"{str(path)!r} is not a checkpoint of tensors alone ({why_refused(error)}); accepted: .safetensors, or a "
            "state dict saved by torch.save(model.state_dict(), path)."
        ) from None
    return _state_dict(loaded, path)


def _harmless() -> list[Any]:
    """Return the types that training programs save next to weights, which hold numbers and run nothing."""
    numbers = [type(np.dtype(kind)) for kind in (np.bool_, np.int32, np.int64, np.float32, np.float64)]
    scalar = np.float64(0).__reduce__()[0]
    return [argparse.Namespace, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *numbers]


def why_refused(error: Exception) -> str:
    """Return briefly why torch could not read a file: for a pickle, what it would have run."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"it is a pickle that would run {wanted[1]}, which is refused"
    if "Weights only load failed" in str(error):
        return "it is not a file that torch.save wrote"  # torch's message is about its defaults, not about the file
    return reason_of(error)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> tuple[str, ...]:
    """Load a state dict into a model in place, and return the changes that made it fit, a sentence each.

    Raises:
        InputError: if keys are missing or left over, shapes differ, or a tensor is of another kind or holds NaN; it
            lists them.
    """
    target = model.state_dict()
    check_fit(target, state, path)
    # Checkpoints from before PyTorch 0.4.1 lack batch norm's step counter, which evaluation never reads.
    counters = {key: value for key, value in target.items() if key.endswith(".num_batches_tracked")}
    filled = len(counters.keys() - state.keys())
    model.load_state_dict(counters | dict(state))
    return (f"{filled} step counters of batch norm, which old files lack, were set to 0",) * bool(filled)


def check_fit(target: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path | str) -> None:
    """Check that a state dict fits a model's, of which only names, shapes and types count.

    Batch norm's step counters may be missing.
    """
    counters = {key: value for key, value in target.items() if key.endswith(".num_batches_tracked")}
    state = counters | dict(state)
    missing, extra = sorted(target.keys() - state.keys()), sorted(state.keys() - target.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in target.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [f"missing {some(missing, NAMED)}"] * bool(missing) + [f"unexpected {some(extra, NAMED)}"] * bool(extra)
    problems += [some(shapes, NAMED)] * bool(shapes)
    if not problems:
        _check_values(target, state, path)
    if problems:
        raise InputError(
            f"{str(path)!r} does not fit the model: {'; '.join(problems)}. It holds another architecture, number of "
            f"classes or image size; name the one it was made for{_imagenet_hint(target, state)}."
        )


def _check_values(target: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse values that copying would silently change, such as quantised integers, and NaN; masks hold infinity."""
    kinds = [key for key, value in target.items() if value.is_floating_point() != state[key].is_floating_point()]
    if kinds:
        raise InputError(
            f"{str(path)!r} holds other kinds of numbers than the model: {some(kinds, NAMED)} is "
            f"{state[kinds[0]].dtype} there and {target[kinds[0]].dtype} in the model; save it as it was trained, "
            "not quantised."
        )
    # float8 has no isnan
    wrong = [key for key, value in state.items() if value.is_floating_point() and bool(value.float().isnan().any())]
    if wrong:
        raise InputError(f"{str(path)!r} holds NaN in {some(wrong, NAMED)}; train it again.")


def _imagenet_hint(model: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    thousand = [key for key, value in state.items() if value.dim() and len(value) == 1000]
    differs = any(key in thousand and len(value) != 1000 for key, value in model.items() if value.dim())
    return " (1,000 ImageNet classes: give classes: imagenet, to pick those of the data)" if differs else ""


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        check_ordinary(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        ours = parse_json(metadata.get("kdiga", "{}"))
        spec = ModelSpec.from_dict(ours["spec"]) if ours.get("spec") else None
        module = str(ours.get("module", ""))
        damaged = ours.get("sum") not in (None, hash_of_tensors(sorted(state.items())))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} is not a readable safetensors checkpoint ({reason_of(error)}); copy or train it again."
        ) from None
    if damaged:
        raise InputError(f"{str(path)!r} is damaged: its tensors do not match their checksum; copy or train it again.")
    about = ours.get("about")
    notes = (COLLAPSED,) if isinstance(about, dict) and about.get("collapsed") else ()
    return Checkpoint(_plain_tensors(state, path), spec, notes, module)


def _plain_tensors(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return dense tensors of real numbers on the CPU, detached, or refuse others."""
    for name, value in state.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.is_complex():
            raise InputError(
                f"{str(path)!r} holds {name}, which is not a plain tensor of numbers ({value.layout}, {value.dtype}, "
                f"{value.device}); accepted: a state dict of dense tensors, neither quantised nor complex."
            )
    return {name: value.detach() for name, value in state.items()}


def _state_dict(loaded: object, path: Path) -> Checkpoint:
    notes: list[str] = []
    for _ in range(WRAPPED):
        if isinstance(loaded, list) and len(cast("list[object]", loaded)) == 1:
            loaded = cast("list[object]", loaded)[0]
            continue
        if isinstance(loaded, Mapping):
            mapping = cast("Mapping[str, object]", loaded)
            wrapper = next((name for name in WRAPPERS if isinstance(mapping.get(name), Mapping | list)), None)
            if wrapper is not None:
                others = sorted(str(name) for name in mapping if name != wrapper)
                notes.append(f"weights under {wrapper!r}" + f"; left out: {some(others, NAMED)}" * bool(others))
                loaded = mapping[wrapper]
                continue
            state = {key: value for key, value in mapping.items() if isinstance(value, Tensor)}
            texts = all(isinstance(name, str) for name in cast("Mapping[Any, Any]", mapping))
            counters = [name for name in mapping if texts and name.rpartition(".")[2] in COUNTERS]
            others = [name for name, value in mapping.items() if isinstance(value, (int, float, str, type(None)))]
            if state and texts and len(state) + len(others) == len(mapping):
                state = {name: value for name, value in state.items() if name not in counters}
                if counters or others:
                    notes.append(f"left out: {some([*counters, *others], NAMED)}")
                return Checkpoint(_plain_tensors(state, path), None, tuple(notes))
        break
    raise InputError(
        f"{str(path)!r} holds no state dict; accepted: tensors by name, bare or under {', '.join(WRAPPERS)}."
    )


def hash_of_tensors(tensors: Iterable[tuple[str, Tensor]], about: str = "") -> str:
    """Return the SHA-256 of a text, and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        # Without a copy, which would be as large as a data set.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def check_sums(path: Path) -> None:
    """Check the checksums in a zip file, which torch.save writes and torch.load does not read; other files have none.

    Raises:
        InputError: for damaged or highly compressed parts.
        ValueError: for what is not an ordinary file.
        zipfile.BadZipFile: for a file that begins like a zip file and is not one.
    """
    check_ordinary(path)
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(path) as parts:
        if sum(part.file_size for part in parts.infolist()) > PACKED * path.stat().st_size:
            raise InputError(f"{str(path)!r} unpacks to far more than its size; save it again with torch.save.")
        damaged = parts.testzip()
    if damaged is not None:
        raise InputError(
            f"{str(path)!r} is damaged: {damaged} does not match its checksum; copy it again, or save it again with "
            "torch.save."
        )
