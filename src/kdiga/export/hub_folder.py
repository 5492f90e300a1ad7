"""A folder to upload to the Hugging Face Hub: ``config.json``, ``model.safetensors`` and a model card, ``README.md``.

``kdiga.load_model`` reads the weights file by itself; the config repeats in plain data what is in its header, for
people and for the Hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdiga.export.formats import Format, Logits, register
from kdiga.export.weights_file import WEIGHTS, read_weights
from kdiga.io.atomic_write import write_atomically
from kdiga.models import Classifier, save_model

CONFIG = "config.json"


def write_hub_folder(model: Classifier, path: Path) -> None:
    """Write config and weights into a folder; the card comes when there are numbers to put in it.

    Args:
        model: any.
        path: of the folder, made if need be.
    """
    path.mkdir(parents=True, exist_ok=True)
    save_model(model, path / WEIGHTS.file)
    write_atomically(path / CONFIG, json.dumps(hub_config(model), indent=2) + "\n")


def hub_config(model: Classifier) -> dict[str, Any]:
    """Return what ``config.json`` holds."""
    channels, size, classes = model.spec.takes
    return {
        "library_name": "kdiga",
        "architecture": model.spec.name,
        "num_classes": classes,
        "input_size": [channels, size, size],
        "pixels": "floats in [0, 1]; normalisation is part of the network",
        "kdiga": {"spec": model.spec.to_dict()},
    }


def _read(path: Path) -> Logits:
    return read_weights(path / WEIGHTS.file)


HUB = register(Format("hf", "hf", "torch", write_hub_folder, _read, is_model=True))
