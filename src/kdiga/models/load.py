"""One function from a name or a path to a model that maps images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdiga.errors import InputError, unknown
from kdiga.models.checkpoint import load_weights, read_checkpoint
from kdiga.models.normalization import NORMALIZATIONS, Normalization, normalization_by_name
from kdiga.models.registry import Classifier, ModelSpec, build

WHICH = ("best", "last")


def load_model(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    activation: str | None = None,
    normalization: str | Normalization | Sequence[Sequence[float]] | None = None,
    pretrained: bool = False,
    which: str = "best",
) -> Classifier:
    """Return a classifier in eval mode, from an architecture's name, a checkpoint or a run folder.

    Args:
        name_or_path: an architecture that ``kdiga models`` lists, ``timm:NAME``, a ``.safetensors``
            file written by kdiga, or the folder of a run.
        weights: a checkpoint to put into a named architecture: a ``.pt``, ``.pth``, ``.th`` or
            ``.safetensors`` state dict. Without it, and without ``pretrained``, weights are fresh.
        num_classes: length of the logits; 10 for a named architecture.
        in_channels: 1 grey, 3 colour; 3 for a named architecture.
        image_size: height and width in pixels; 32 for a named architecture.
        activation: "relu", "silu", "gelu" or "softplus" in place of the architecture's own.
        normalization: "none", "imagenet", "cifar10", "half" or ``[[mean, ...], [std, ...]]``: the layer
            in front, for pixels in [0, 1]; "none" for fresh weights. Foreign weights must come with it.
        pretrained: fetch timm's weights, for ``timm:NAME``.
        which: "best" or "last", for a run folder.

    Raises:
        InputError: for an unknown name, a missing or foreign file, weights of another architecture,
            or an argument that contradicts the checkpoint.

    >>> load_model("cnn-4", in_channels=1, image_size=8).spec.num_classes
    10
    """
    path = Path(name_or_path)
    given: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": image_size,
        "activation": activation,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if normalization is not None:
        layer = normalization_by_name(normalization)
        given |= {"mean": layer.mean, "std": layer.std}
    if path.is_dir() or path.suffix or (path.parent != Path() and not str(path).startswith("timm:")):
        if weights is not None:
            raise InputError(f"{str(path)!r} is a checkpoint, so weights={str(weights)!r} has no place; give one.")
        return _from_checkpoint(checkpoint_in(path, which) if path.is_dir() else path, given)
    if weights is None:
        return build(ModelSpec(str(name_or_path), **given), pretrained=pretrained).eval()
    return _with_weights(str(name_or_path), Path(weights), given)


def checkpoint_in(run: Path, which: str = "best") -> Path:
    """Return the weights of a finished run.

    Raises:
        InputError: if the folder holds no finished run.
    """
    if which not in WHICH:
        raise unknown("which", which, WHICH)
    path = run / f"{which}.safetensors"
    if path.is_file():
        return path
    if (run / "journal.jsonl").is_file():
        raise InputError(
            f"the run in {str(run)!r} has no {which} weights: it was interrupted or diverged (its journal.jsonl says "
            "which). Continue it with `kdiga train RECIPE --resume`."
        )
    raise InputError(f"{str(run)!r} holds no run; expected {which}.safetensors in it.")


def _with_weights(name: str, path: Path, given: dict[str, Any]) -> Classifier:
    model = build(ModelSpec(name, **given))
    state, spec = read_checkpoint(path)
    if spec is not None:
        return _rebuild(path, state, spec, given | {"name": name})
    if "mean" not in given:
        # Left out, or applied twice, it is the commonest silent error in measuring robustness: no guess.
        raise InputError(
            f"{str(path)!r} does not say how its model wants pixels normalised; give normalization: "
            f"{', '.join(NORMALIZATIONS)}, or [[mean, ...], [std, ...]]."
        )
    load_weights(model.network, state, path)
    return model.eval()


def _from_checkpoint(path: Path, given: dict[str, Any]) -> Classifier:
    state, spec = read_checkpoint(path)
    if spec is None:
        raise InputError(
            f"{str(path)!r} does not say its architecture; give it: load_model('resnet20', weights={str(path)!r}), on "
            "the command line `resnet20 --weights FILE`."
        )
    return _rebuild(path, state, spec, given)


def _rebuild(path: Path, state: dict[str, Tensor], spec: ModelSpec, given: dict[str, Any]) -> Classifier:
    wrong = {key: value for key, value in given.items() if getattr(spec, key) != value}
    if wrong:
        raise InputError(
            f"{str(path)!r} was made with {', '.join(f'{key}={getattr(spec, key)!r}' for key in wrong)}, not "
            f"{', '.join(f'{key}={value!r}' for key, value in wrong.items())}; leave that out, or give another file."
        )
    model = build(spec)
    load_weights(model, state, path)
    return model.eval()
