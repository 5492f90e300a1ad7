"""Models on this machine: built-in architectures, weights in a file, and the folder of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import nn

from kdiga.errors import InputError, check_known
from kdiga.models.classifier import Classifier, ModelSpec
from kdiga.models.foreign import fresh_or_filled, from_file
from kdiga.models.registry import ModelSource, SourceRequest, available_models, build, register_source, source_of

WHICH = ("best", "last")


@register_source
class Architecture(ModelSource):
    """``resnet20`` and other built-in architectures, with fresh weights or those of a file."""

    prefix = ""
    form = "NAME"
    brings_weights = False

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the architecture with fresh weights, or with ``weights``."""
        if request.pretrained:
            raise InputError(f"{name} has no pretrained weights to fetch; give weights=FILE, or use timm:NAME.")
        spec = request.spec(name)
        if request.weights is None:
            request.refuse("it has no weights to match", "matched")
        return fresh_or_filled(spec, request)

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the network."""
        return build(spec).network

    def names(self) -> Iterable[str]:
        """Return the names of the architectures."""
        return available_models()


@register_source
class File(ModelSource):
    """``file:PATH``: a checkpoint of kdiga or another code base."""

    prefix = "file"
    form = "file:PATH"

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the model of a file of kdiga, or ``architecture`` with the weights of another one."""
        path = Path(name).expanduser()
        if request.weights is not None:
            raise InputError(f"{name!r} is a checkpoint, so weights={str(request.weights)!r} does not apply; give one.")
        request.refuse("it is a file", "pretrained")
        if request.architecture is None:
            request.refuse("its tensors have their architecture's names", "matched")
            return from_file(path, request.given)
        source, rest = source_of(request.architecture)
        if source.brings_weights:
            raise InputError(f"architecture was {request.architecture!r}; give a name such as resnet20 or timm:NAME.")
        return source.load(replace(request, name=request.architecture, architecture=None, weights=path), rest)


@register_source
class RunSource(ModelSource):
    """``run:DIR``: a finished run of ``kdiga train``, by its folder."""

    prefix = "run"
    form = "run:DIR"

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the run's best or last model."""
        if request.weights is not None:
            raise InputError(f"{name!r} is a run, so weights={str(request.weights)!r} does not apply; give one.")
        request.refuse("a run knows its own model", "pretrained", "architecture", "matched")
        return from_file(checkpoint_in(Path(name).expanduser(), request.which), request.given)


def checkpoint_in(run: Path, which: str = "best") -> Path:
    """Return the weights of a finished run."""
    check_known("which", which, WHICH)
    path = run / f"{which}.safetensors"
    if path.is_file():
        return path
    if not run.is_dir():
        raise InputError(f"run {str(run)!r} does not exist; give the folder that `kdiga train` wrote.")
    if (run / "journal.jsonl").is_file():
        raise InputError(
            f"the run in {str(run)!r} has no {which} weights: it was interrupted or diverged (its journal.jsonl says "
            "which). Continue it with `kdiga train RECIPE --resume`."
        )
    raise InputError(f"{str(run)!r} holds no run; expected {which}.safetensors in it.")
