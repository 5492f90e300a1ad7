"""Attacks make about as many passes as they say they do, on an image that withstands them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.evaluation import attack_by_name
from kdiga.evaluation.autoattack import BACKWARDS, autoattack_stage
from kdiga.model_state import frozen_parameters
from kdiga.types import ThreatModel


class Sure(nn.Module):
    """Sees class 0 in everything, has gradients, and counts the passes of each image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 10)
        with torch.no_grad():
            self.layer.bias[0] = 50.0
        self.counts = {"forwards": 0, "backwards": 0}

    def forward(self, images):
        self.counts["forwards"] += len(images)
        if images.requires_grad:
            images.register_hook(self._count)
        return self.layer(images.flatten(1))

    def _count(self, gradient):
        self.counts["backwards"] += len(gradient)


@pytest.mark.parametrize(
    "stage",
    [
        *(autoattack_stage(name) for name in BACKWARDS),
        autoattack_stage("apgd-ce", "rand"),
        *(attack_by_name(name).stages[0] for name in ("fgsm", "pgd-20", "cw-7")),
    ],
    ids=lambda stage: f"{stage.name}-{stage.forwards}",
)
def test_passes_of_an_attack_on_an_image_that_withstands_it(stage):
    torch.manual_seed(0)
    model, images = Sure().eval(), torch.rand(2, 3, 2, 2)
    with frozen_parameters(model):
        outcome = stage.attack(model, images, torch.zeros(2, dtype=torch.long), ThreatModel("linf", 0.01), 0)
    assert outcome.correct.all()
    looks = 13 if stage.of_autoattack else 1  # at classes, starts and what came out
    assert model.counts["forwards"] / 2 == pytest.approx(stage.forwards, rel=0.05, abs=looks)
    assert model.counts["backwards"] / 2 == pytest.approx(stage.backwards, rel=0.05, abs=1)
