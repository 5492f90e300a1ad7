"""A named architecture with weights out of a file, which may be ours or anybody's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdiga.errors import InputError, KdigaError, reason_of
from kdiga.models.checkpoint import Checkpoint, check_fit, load_weights, read_checkpoint
from kdiga.models.layouts import tidied
from kdiga.models.normalization import NORMALIZATIONS, Normalization
from kdiga.models.registry import Classifier, ModelSpec, WeightsOrigin, build


def with_weights(
    spec: ModelSpec,
    path: Path,
    *,
    given: dict[str, Any],
    matched: str = "name",
    own: Normalization | None = None,
    network: Callable[[ModelSpec], nn.Module] | None = None,
) -> Classifier:
    """Build a network and fill it from a file.

    Args:
        spec: of the network.
        path: of the file.
        given: what the caller gave of the spec; it must agree with a file that knows its own.
        matched: "name" or "order", see :func:`kdiga.models.layouts.tidied`.
        own: the normalisation of the weights, where their source tells it.
        network: builds it; None builds what the spec names.

    Raises:
        InputError: if the file does not fit, or nobody says how its model wants pixels normalised.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.spec is not None:
        return rebuild(path, checkpoint, given | {"name": spec.name})
    empty = build(spec).network if network is None else network(spec)
    found = tidied(checkpoint.state, empty.state_dict(), matched)
    layer = _normalization(path, given, found.normalization, own)
    notes = (*checkpoint.notes, *found.notes, *load_weights(empty, found.state, path))
    spec = replace(spec, mean=layer.mean, std=layer.std)
    return Classifier(spec, empty, WeightsOrigin(f"file {path}", trained=True, notes=notes)).eval()


def fresh_or_filled(spec: ModelSpec, path: Path | None, *, given: dict[str, Any], matched: str = "name") -> Classifier:
    """Return a network with fresh weights, or :func:`with_weights` where there is a file of them."""
    if path is None:
        return build(spec).eval()
    return with_weights(spec, path, given=given, matched=matched)


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
        # Left out, or applied twice, it is the commonest silent error in measuring robustness: no guess.
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
    """Return the model of a file that knows its own architecture.

    Raises:
        InputError: if it does not.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.spec is None:
        raise InputError(
            f"{str(path)!r} does not say its architecture; give it: load_model({f'file:{path}'!r}, "
            f"architecture='resnet20'), in a recipe architecture: resnet20, on the command line `resnet20 --weights "
            f"{path}`."
        )
    return rebuild(path, checkpoint, given)


def rebuild(path: Path, checkpoint: Checkpoint, given: dict[str, Any]) -> Classifier:
    """Return the model of one of our files.

    Raises:
        InputError: if what was given contradicts it, or no model can be built from what it says of itself.
    """
    spec = checkpoint.spec
    assert spec is not None
    wrong = spec.contradiction(given)
    if wrong is not None:
        raise InputError(f"{str(path)!r} was made with {wrong}; leave that out, or give another file.")
    try:
        # First without memory: what a damaged file says of its model's size may be anything.
        with torch.device("meta"):
            sizes = build(spec).state_dict()
    except KdigaError:
        raise
    except Exception as error:
        # timm's networks may need real numbers to be built; what is our own does not.
        if ":" not in spec.name:
            raise InputError(f"{str(path)!r} describes no model ({reason_of(error)}); train it again.") from None
    else:
        check_fit(sizes, checkpoint.state, path)
    model = build(spec)
    load_weights(model, checkpoint.state, path)
    model.origin = WeightsOrigin(f"file {path}", trained=True)
    return model.eval()
