"""Images without labels (-100): attacks on the cross-entropy, and trust in the teacher, take predictions as labels."""

from __future__ import annotations

import pytest
import torch

from kdiga.methods.iad import trust
from kdiga.model_state import seeded
from tests.training.test_distiller import TEACHERS, distiller_of, networks


def adversarial(method, images, labels, **options):
    with seeded(3):
        step = distiller_of(*networks(), method=method, **TEACHERS, **options).output(images, labels).step
    return step.adv_images


@pytest.mark.parametrize("method", ["ard", "kdiga-ard", "iad", "fair-ard", "mtard", "b-mtard"])
def test_the_attack_takes_the_prediction_of_the_teacher(method, batch):
    images, labels = batch
    answering = TEACHERS["second_teacher"] if "mtard" in method else networks()[1].eval()
    predicted = adversarial(method, images, answering(images).argmax(1))
    assert torch.equal(adversarial(method, images, torch.full_like(labels, -100)), predicted)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("pgd-at", {}),
        ("mart", {}),
        ("iad-ii", {}),
        ("kdiga-ard", {"align_at": "adv"}),
        ("ard", {"definition": "adv-target"}),
    ],
)
def test_without_a_teacher_at_clean_images_it_takes_that_of_the_student(method, options, batch):
    images, labels = batch
    delta = adversarial(method, images, torch.full_like(labels, -100), **options) - images
    assert delta.abs().mean() > 0.07  # of 0.1


def test_trust_and_doubt_are_those_of_a_prediction(batch):
    logits, labels = torch.randn(12, 10), torch.full((12,), -100)
    assert torch.equal(trust(logits, labels, 0.1), logits.softmax(1).amax(1).pow(0.1))
    robust = []
    for given in (labels, networks()[0](batch[0]).argmax(1)):
        distiller = distiller_of(networks()[0], method="mart", attack_batch_norm="train")
        with seeded(3):
            robust.append(distiller.output(batch[0], given).terms["robust"].item())
    assert robust[0] == pytest.approx(robust[1], rel=1e-5)
