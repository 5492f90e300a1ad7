"""Files with which RobustBench (Croce et al., 2021) can benchmark an exported model, without kdiga.

``robustbench_model.py`` loads ``model.pt2`` from its own folder: a plain module from pixels in [0, 1] to logits, which
is differentiable, as AutoAttack's gradient attacks require. ``robustbench.json`` has the fields of RobustBench's own
``model_info``; fields that only the author knows are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdiga.evaluation.autoattack import OFFICIAL_NORM
from kdiga.types import ThreatModel

LOADER, INFO = "robustbench_model.py", "robustbench.json"

SOURCE = '''"""A robust classifier for RobustBench: pixels in [0, 1] to logits, normalisation inside.

It needs PyTorch, and model.pt2 in the folder of this file. With RobustBench installed:

    from robustbench.eval import benchmark
    from robustbench_model import DATASET, EPS, THREAT_MODEL, load_model

    benchmark(load_model(), dataset=DATASET, threat_model=THREAT_MODEL, eps=EPS)
"""

from pathlib import Path

import torch
from torch import nn

FILE = Path(__file__).with_name("model.pt2")
DATASET, THREAT_MODEL, EPS = {dataset!r}, {norm!r}, {eps!r}
INPUT_SHAPE, NUM_CLASSES = {shape!r}, {classes!r}


class Exported(nn.Module):
    """The exported network, always in eval mode."""

    def __init__(self, program):
        super().__init__()
        self.program = program
        self.training = False
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, images):
        """Return logits (batch, {classes}) of images (batch, {channels}, {size}, {size}) in [0, 1]."""
        return self.program(images)

    def train(self, mode=True):
        """Change nothing, since a program has one mode."""
        return self


def load_model(file=FILE, device="cpu"):
    """Return the model on a device, differentiable with respect to its input, with frozen weights."""
    exported = torch.export.load(file)
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        exported = move_to_device_pass(exported, device)
    return Exported(exported.module())
'''


def loader_source(threat: ThreatModel, data: str, takes: tuple[int, int, int]) -> str:
    """Return the text of ``robustbench_model.py``; ``takes`` is channels and size of the images, and the classes."""
    channels, size, classes = takes
    return SOURCE.format(
        dataset=data,
        norm=OFFICIAL_NORM[threat.norm],
        eps=threat.eps,
        shape=(channels, size, size),
        classes=classes,
        channels=channels,
        size=size,
    )


def model_info(
    *, threat: ThreatModel, data: str, architecture: str, clean: float | None, autoattack: float | None
) -> Mapping[str, Any]:
    """Return the fields of RobustBench's ``model_info``, with percentages as text, as RobustBench writes them.

    Accuracies are in [0, 1], None if not measured.
    """
    return {
        "link": None,
        "name": None,
        "authors": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": data,
        "venue": None,
        "architecture": architecture,
        "eps": str(threat.eps),
        "clean_acc": _percent(clean),
        "reported": None,
        "autoattack_acc": _percent(autoattack),
        "footnote": None,
    }


def _percent(value: float | None) -> str | None:
    return None if value is None else str(round(100 * value, 2))
