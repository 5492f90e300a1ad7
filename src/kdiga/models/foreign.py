"""A named architecture with weights from a file of kdiga or of another code base.

State dicts of other code bases are brought to the names of one network: prefixes, normalisers, duplicates.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdiga.errors import InputError, KdigaError, KdigaWarning, check_known, reason_of
from kdiga.models.checkpoint import Checkpoint, check_fit, load_weights, read_checkpoint
from kdiga.models.classifier import Classifier, ModelSpec, WeightsOrigin
from kdiga.models.input_layers import NORMALIZATIONS, Normalization
from kdiga.models.registry import SourceRequest, build

# Buffers of a normalisation: in Madry's robustness library, kdiga and RobustBench.
NORMALIZERS = (
    ("normalizer.new_mean", "normalizer.new_std"),
    ("normalizer.mean", "normalizer.std"),
    ("normalize.mean", "normalize.std"),
    ("mu", "sigma"),
    ("mean", "std"),
    ("0.mean", "0.std"),  # Sequential(normalise, network)
)
ATTACKER = "attacker."  # the robustness library saves its model twice, once inside the attack
MATCHES = ("name", "order")
MOST_CHANNELS = 64  # of images; a longer buffer is not a normalisation


def with_weights(
    spec: ModelSpec,
    path: Path,
    *,
    given: dict[str, Any],
    matched: str = "name",
    own: Normalization | None = None,
) -> Classifier:
    """Build a network and load its weights from a file.

    Args:
        spec: Spec of the network.
        path: Path of the file.
        given: Fields of the spec that the caller gave; they must agree with a file of kdiga.
        matched: "name" or "order", see :func:`tidied`.
        own: Normalisation of the weights, where their source states it.

    Raises:
        InputError: if the file does not fit, or the normalisation of pixels is unknown.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.spec is not None:
        return rebuild(path, checkpoint, given | {"name": spec.name})
    empty = build(spec).network
    found = tidied(checkpoint.state, empty.state_dict(), matched)
    if spec.name.startswith("python:"):  # own code maps images in [0, 1] to logits by itself
        own = own or NORMALIZATIONS["none"]
    layer = _normalization(path, given, found.normalization, own)
    notes = (*checkpoint.notes, *found.notes, *load_weights(empty, found.state, path))
    spec = replace(spec, mean=layer.mean, std=layer.std)
    return Classifier(spec, empty, WeightsOrigin(f"file {path}", trained=True, notes=notes)).eval()


def with_new_head(model: Classifier, outputs: int, replace_head: Callable[[nn.Module, int], nn.Module]) -> Classifier:
    """Return a trained classifier with ``outputs`` outputs: with a fresh last layer if it has another number."""
    trained = model.spec.num_classes
    if outputs == trained:
        return model
    note = f"a new head of {outputs} classes, untrained, in place of the weights' {trained}"
    origin = replace(model.origin, new_head=True, notes=(*model.origin.notes, note))
    return Classifier(replace(model.spec, num_classes=outputs), replace_head(model.network, outputs), origin).eval()


def pretrained_spec(
    request: SourceRequest, name: str, *, size: int, channels: int, outputs: int, normalization: Normalization
) -> ModelSpec:
    """Return the spec of a pretrained network with all its outputs: given values, else those of its source."""
    own = {"in_channels": channels, "image_size": size, "num_classes": outputs}
    own |= {"mean": normalization.mean, "std": normalization.std}
    return replace(request, num_classes=None).spec(name, **own)


def by_hand(url: str, file: str) -> str:
    """Return what to do where weights cannot be downloaded."""
    return (
        f"download {url} by hand and give its path with pretrained: weights: {file}, on the command line "
        f"--weights {file} --normalization pretrained."
    )


def fresh_or_filled(spec: ModelSpec, request: SourceRequest) -> Classifier:
    """Return a network with fresh weights, or with those of the requested file."""
    if request.weights is None:
        return build(spec).eval()
    return with_weights(spec, request.weights, given=request.given, matched=request.matched)


def _normalization(
    path: Path, given: dict[str, Any], found: Normalization | None, own: Normalization | None
) -> Normalization:
    asked = Normalization(given["mean"], given["std"]) if "mean" in given else None
    if asked and found and not _close(asked, found):
        raise InputError(
            f"{str(path)!r} holds its normalisation, mean {found.mean} and std {found.std}, and another was given, "
            f"mean {asked.mean} and std {asked.std}; leave normalization out."
        )
    layer = asked or found or own
    if layer is None:
        # A missing or repeated normalisation is the most common silent error in measuring robustness: never guess.
        raise InputError(
            f"{str(path)!r} does not say how its model wants pixels normalised; give normalization: "
            f"{', '.join(NORMALIZATIONS)}, or [[mean, ...], [std, ...]]."
        )
    return layer


def _close(one: Normalization, other: Normalization) -> bool:
    def spread(values: tuple[float, ...]) -> tuple[float, ...]:
        return values * max(len(one.mean), len(other.mean)) if len(values) == 1 else values

    pairs = [(spread(one.mean), spread(other.mean)), (spread(one.std), spread(other.std))]
    return all(
        len(left) == len(right) and all(abs(a - b) < 1e-3 for a, b in zip(left, right, strict=True))
        for left, right in pairs
    )


def from_file(path: Path, given: dict[str, Any]) -> Classifier:
    """Return the model of a file that states its architecture."""
    checkpoint = read_checkpoint(path)
    if checkpoint.module:
        raise InputError(
            f"{str(path)!r} holds an own module, {checkpoint.module}, and a file alone runs no code; name the code: "
            f"load_model('python:{checkpoint.module}', weights={str(path)!r}), on the command line "
            f"`python:{checkpoint.module} --weights {path}`."
        )
    if checkpoint.spec is None:
        raise InputError(
            f"{str(path)!r} does not say its architecture; give it: load_model({f'file:{path}'!r}, "
            f"architecture='resnet20'), in a recipe architecture: resnet20, on the command line `resnet20 --weights "
            f"{path}`."
        )
    return rebuild(path, checkpoint, given)


def rebuild(path: Path, checkpoint: Checkpoint, given: dict[str, Any]) -> Classifier:
    """Return the model of a file that kdiga wrote.

    Raises:
        InputError: if given fields contradict it, or no model can be built from its spec.
    """
    spec = checkpoint.spec
    assert spec is not None
    wrong = spec.contradiction(given)
    if wrong is not None:
        raise InputError(f"{str(path)!r} was made with {wrong}; leave that out, or give another file.")
    try:
        # First without memory: a damaged file may state any size.
        with torch.device("meta"):
            sizes = build(spec).state_dict()
    except KdigaError:
        raise
    except Exception as error:
        # Some of timm's networks cannot be built without real numbers; built-in ones can.
        if ":" not in spec.name:
            raise InputError(f"{str(path)!r} describes no model ({reason_of(error)}); train it again.") from None
    else:
        check_fit(sizes, checkpoint.state, path)
    model = build(spec)
    load_weights(model, checkpoint.state, path)
    model.origin = WeightsOrigin(f"file {path}", trained=True, notes=checkpoint.notes)
    for note in checkpoint.notes:
        warnings.warn(f"{str(path)!r}: {note}.", KdigaWarning, stacklevel=2)
    return model.eval()


class Tidied(NamedTuple):
    """A state dict with a network's names, the normalisation in the file, and the changes, a sentence each."""

    state: dict[str, Tensor]
    normalization: Normalization | None
    notes: tuple[str, ...]


def tidied(state: Mapping[str, Tensor], target: Mapping[str, Tensor], matched: str = "name") -> Tidied:
    """Bring a state dict to the names of a network.

    A prefix is removed only where every tensor has it and the network's names do not, so no tensor is dropped but the
    second copy of a model inside Madry's attacker.

    Args:
        state: State dict of the file.
        target: State dict of the network.
        matched: "name", or "order" where the same tensors come in the same order under other names.

    Raises:
        InputError: for another ``matched``, or with "order", tensors that differ in number or shape.
    """
    check_known("matched", matched, MATCHES)
    notes: list[str] = []
    names = _without_prefixes(dict(state), target, notes)
    inside = [name for name in names if name.startswith(ATTACKER)]
    if inside and len(inside) < len(names):
        notes.append(f"left out {len(inside)} tensors under {ATTACKER!r}, a second copy of the model")
        names = {name: value for name, value in names.items() if name not in inside}
    normalization, used = _normalization_in(names, target)
    if used:
        notes.append(f"normalisation read from {' and '.join(used)}")
        names = _without_prefixes({name: value for name, value in names.items() if name not in used}, target, notes)
    if matched == "order":
        names = in_order(names, target)
        notes.append(f"{len(names)} tensors matched by their order and shape, not by name, as asked")
    return Tidied(names, normalization, tuple(notes))


def _without_prefixes(state: dict[str, Tensor], target: Collection[str], notes: list[str]) -> dict[str, Tensor]:
    """Remove prefixes of DataParallel, torch.compile, Sequential and other wrappers, which every tensor has."""
    while True:
        first, dot, _ = next(iter(state), "").partition(".")
        prefix = first + dot
        fits = any(name in target for name in state) or _all_start(target, prefix)
        if fits or not dot or not _all_start(state, prefix):
            return state
        notes.append(f"prefix {prefix!r} removed")
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _all_start(names: Collection[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _normalization_in(
    state: Mapping[str, Tensor], target: Collection[str]
) -> tuple[Normalization | None, tuple[str, ...]]:
    for pair in NORMALIZERS:
        if all(name in state and name not in target and state[name].numel() <= MOST_CHANNELS for name in pair):
            mean, std = (tuple(round(float(value), 6) for value in state[name].flatten()) for name in pair)
            return Normalization(mean, std), pair
    return None, ()


def in_order(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a state dict the names of a network's, one after the other.

    Batch norm's step counters, which old files lack, are left out. Only shapes are checked: two tensors of one shape
    in another order stay undetected, so measure the model's accuracy afterwards.

    Raises:
        InputError: if they differ in number, or one in its shape; it names the first.
    """

    def counted(names: Mapping[str, Tensor]) -> list[str]:
        return [name for name in names if not name.endswith("num_batches_tracked")]

    given, wanted = counted(state), counted(target)
    if len(given) != len(wanted):
        raise InputError(
            f"the file holds {len(given)} tensors and the network {len(wanted)}, so they cannot be matched by order; "
            "name the architecture that the file was made for."
        )
    for number, (name, own) in enumerate(zip(given, wanted, strict=True), start=1):
        if state[name].shape != target[own].shape:
            raise InputError(
                f"matched by order, tensor {number} is {name} {tuple(state[name].shape)} in the file and {own} "
                f"{tuple(target[own].shape)} in the network; name the architecture that the file was made for."
            )
    return {own: state[name] for name, own in zip(given, wanted, strict=True)}
