"""``file:PATH``: weights in a file, ours or anybody's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdiga.errors import InputError
from kdiga.models.foreign import from_file
from kdiga.models.registry import Classifier
from kdiga.models.source import ModelRequest, ModelSource, register_source, source_of


@register_source
class File(ModelSource):
    """A checkpoint, by its path."""

    prefix = "file"
    form = "file:PATH"

    def load(self, request: ModelRequest, name: str) -> Classifier:
        """Return the model of one of our files, or ``architecture`` with the weights of another."""
        path = Path(name).expanduser()
        if request.weights is not None:
            raise InputError(f"{name!r} is a checkpoint, so weights={str(request.weights)!r} has no place; give one.")
        request.refuse("it is a file", "pretrained")
        if request.architecture is None:
            request.refuse("its tensors have their architecture's names", "matched")
            return from_file(path, request.given)
        source, rest = source_of(request.architecture)
        if source.brings_weights:
            raise InputError(f"architecture was {request.architecture!r}; give a name such as resnet20 or timm:NAME.")
        return source.load(replace(request, name=request.architecture, architecture=None, weights=path), rest)
