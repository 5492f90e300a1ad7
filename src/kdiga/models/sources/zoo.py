"""``zoo:NAME``: small trained models that come with kdiga, with what was measured of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kdiga.io.safe_json_yaml import load_json
from kdiga.models.classifier import Classifier, WeightsOrigin
from kdiga.models.foreign import from_file
from kdiga.models.registry import ModelSource, SourceRequest, register_source, unknown_name

FOLDER = Path(__file__).parents[1] / "zoo"


@cache
def zoo_index() -> Mapping[str, Mapping[str, Any]]:
    """Return by name what is known of each model: architecture, data, threat model, accuracies, command, seed, date."""
    return load_json(FOLDER / "index.json")


@register_source
class Zoo(ModelSource):
    """Weights in the package: float16 matrices, which are read as float32."""

    prefix = "zoo"
    form = "zoo:NAME"

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the model of a name."""
        if name not in zoo_index():
            raise unknown_name(self, name)
        request.refuse("its weights come with kdiga", "weights", "architecture", "matched")
        model = from_file(FOLDER / f"{name}.safetensors", request.given)
        model.origin = WeightsOrigin(request.name, trained=True)
        return model

    def names(self) -> Iterable[str]:
        """Return the names of all models."""
        return zoo_index()
