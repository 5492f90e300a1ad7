"""safetensors: weights and the description of the network, as a file or as a folder for the Hugging Face Hub.

``kdiga.load_model`` reads the file by itself. The folder's ``config.json`` repeats the header of the file as plain
data, for people and for the Hub; its model card, ``README.md``, is written once there are measurements.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from kdiga.export.formats import Format, Logits, register
from kdiga.io.atomic_write import write_atomically
from kdiga.models import Classifier, load_model, save_model

CONFIG = "config.json"


def read_weights(path: Path) -> Logits:
    """Return the function of a safetensors file that kdiga wrote, without gradients."""
    model = load_model(path)

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images.detach().cpu())

    return logits


def write_hub_folder(model: Classifier, path: Path) -> None:
    """Write config and weights into a folder, which is created if needed."""
    channels, size, classes = model.spec.takes
    config = {
        "library_name": "kdiga",
        "architecture": model.spec.name,
        "num_classes": classes,
        "input_size": [channels, size, size],
        "pixels": "floats in [0, 1]; normalisation is part of the network",
        "kdiga": {"spec": model.spec.to_dict()},
    }
    path.mkdir(parents=True, exist_ok=True)
    save_model(model, path / WEIGHTS.file)
    write_atomically(path / CONFIG, json.dumps(config, indent=2) + "\n")


WEIGHTS = register(Format("safetensors", "model.safetensors", "torch", save_model, read_weights, is_model=True))
HUB = register(
    Format("hf", "hf", "torch", write_hub_folder, lambda path: read_weights(path / WEIGHTS.file), is_model=True)
)
