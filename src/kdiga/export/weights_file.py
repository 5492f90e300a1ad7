"""safetensors: the weights, and what is needed to build the network again, as kdiga itself keeps them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kdiga.export.formats import Format, Logits, register
from kdiga.models import load_model, save_model


def read_weights(path: Path) -> Logits:
    """Return the function of a safetensors file of kdiga's, without gradients."""
    model = load_model(path)

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images.detach().cpu())

    return logits


WEIGHTS = register(Format("safetensors", "model.safetensors", "torch", save_model, read_weights, is_model=True))
