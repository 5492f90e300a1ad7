"""Everything that decides an outcome is in its key: one folder serves all settings, and none gets another's result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.certification import clever, clever_against, interval_against, interval_bounds, smooth
from kdiga.certification.class_scores import ClassScores
from kdiga.certification.lipschitz import LipschitzEstimates, Sampling, estimate_lipschitz, largest_norms
from kdiga.types import ThreatModel
from tests.certification.nets import inner_images
from tests.certification.test_interval import two_layers

IMAGES = inner_images(4, side=2)
LABELS = two_layers(1)(IMAGES).argmax(1)
OTHER_IMAGES = (IMAGES + 0.05).clamp(0, 1)
OTHER_LABELS = torch.where(torch.arange(4) == 2, (LABELS + 1) % 3, LABELS)

CLEVER = {"max_radius": 0.2, "batches": 6, "batch_size": 2, "seed": 0, "norm": "linf"}
INTERVAL = {"eps": 0.03, "max_radius": 0.2, "norm": "linf"}
SMOOTH = {"sigma": 0.4, "samples": 60, "selection_samples": 10, "alpha": 0.01, "seed": 0}
CHANGES = {
    clever: (CLEVER, {"max_radius": 0.3, "batches": 7, "batch_size": 3, "seed": 1, "norm": "l2"}),
    interval_bounds: (INTERVAL, {"eps": 0.06, "max_radius": 0.3, "norm": "l2"}),
    smooth: (SMOOTH, {"sigma": 0.5, "samples": 90, "selection_samples": 1, "alpha": 0.02, "seed": 3}),
}


@pytest.mark.parametrize("certify", CHANGES)
def test_of_one_model(certify, tmp_path):
    usual, changes = CHANGES[certify]
    cases = [(1, IMAGES, LABELS, usual), (2, IMAGES, LABELS, usual), (1, OTHER_IMAGES, LABELS, usual)]
    cases.append((1, IMAGES, OTHER_LABELS, usual))
    cases += [(1, IMAGES, LABELS, usual | {name: value}) for name, value in changes.items()]
    calls = []
    for again in (False, True):
        for seed, images, labels, settings in cases:
            cached = certify(
                two_layers(seed), images, labels, folder=tmp_path, progress=lambda *step: calls.append(step), **settings
            )
            assert cached == certify(two_layers(seed), images, labels, **settings), (again, settings)
    assert len(list(tmp_path.glob("*.json"))) >= len(cases)
    assert {total for _, _, total in calls} == {4}
    assert {task for task, _, _ in calls} == {
        {clever: "clever", interval_bounds: "interval", smooth: "smoothing"}[certify]
    }


@pytest.mark.parametrize("certify", [clever_against, interval_against])
def test_of_a_student_beside_its_teacher(certify, tmp_path):
    usual = CLEVER if certify is clever_against else INTERVAL
    cases = [(1, 2, IMAGES, LABELS, usual), (1, 3, IMAGES, LABELS, usual), (3, 2, IMAGES, LABELS, usual)]
    cases += [(2, 1, IMAGES, LABELS, usual), (1, 2, OTHER_IMAGES, LABELS, usual)]
    cases += [(1, 2, IMAGES, OTHER_LABELS, usual), (1, 2, IMAGES, LABELS, usual | {"max_radius": 0.3})]
    cases += [(1, 2, IMAGES, LABELS, usual | {"norm": "l2"})]
    for seed, teacher, images, labels, settings in cases:
        models = two_layers(seed), two_layers(teacher)
        cached = certify(*models, images, labels, folder=tmp_path, **settings)
        assert cached == certify(*models, images, labels, **settings), settings
        assert cached == certify(*models, images, labels, folder=tmp_path, **settings), "taken up"


def scores_where(right: torch.Tensor, labels: torch.Tensor) -> ClassScores:
    """Logits of three classes that are right on some examples."""
    return ClassScores(nn.functional.one_hot(torch.where(right, labels, (labels + 1) % 3), 3).double(), labels)


def test_every_example_has_its_own_stream_and_place():
    """Seven examples in two work units, of which some are classified by neither model, against one at a time."""
    models, images, ball = [two_layers(1), two_layers(2)], inner_images(7, side=2), ThreatModel("linf", 0.2)
    wanted = torch.tensor([True, False, True, True, False, True, True])
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    one = wanted & (torch.arange(7) < 3)
    scores = [scores_where(one, labels), scores_where(wanted & ~one, labels)]
    sampling = Sampling(ball, 8, 3, seed=5)
    found = estimate_lipschitz(models, images, scores, sampling)
    assert len(found) == 3
    for row in range(7):
        alone = largest_norms(models, images[row], labels[row], sampling, row)
        for estimate, maxima in zip(found, alone, strict=True):
            single = LipschitzEstimates.from_maxima([maxima])
            for name in ("location", "largest", "p_value"):
                here = getattr(estimate, name)[row]
                there = getattr(single, name)[0] if wanted[row] else torch.full_like(here, torch.nan)
                assert torch.allclose(here, there, equal_nan=True), name


def test_where_nothing_is_right_nothing_is_known():
    wrong = scores_where(torch.zeros(4, dtype=torch.bool), LABELS)
    sampling = Sampling(ThreatModel("l2", 0.1), 5, 1)
    for models, kinds in (([two_layers(1)], 1), ([two_layers(1), two_layers(2)], 3)):
        found = estimate_lipschitz(models, IMAGES, [wrong] * len(models), sampling)
        assert len(found) == kinds
        assert all(part.location.isnan().all() and part.location.shape == (4, 2) for part in found)
