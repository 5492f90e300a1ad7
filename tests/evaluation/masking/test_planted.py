"""Masked models are flagged by the checks that should flag them; sound ones by none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.evaluation.masking import CHECKS, check_masking
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.evaluation.masking.planted import PLANTED, THREAT, digits, plain, small, trained

SOUND_THREATS = (ThreatModel("linf", 0.1), ThreatModel("l2", 0.8))


def checks_named(*names):
    return [check for check in CHECKS if check.name in names]


@pytest.mark.parametrize("name", PLANTED)
def test_flagged(name):
    model, expected = PLANTED[name].build(0), PLANTED[name].expected
    # On 50 images the difference that more steps make is at the edge of chance; processors round it either way.
    examples = 100 if "more-steps" in expected else 50
    findings = check_masking(
        model, *digits()[1], threat=THREAT, seed=0, teacher=plain(1), examples=examples, checks=checks_named(*expected)
    )
    assert len(findings) == len(expected)
    wanted = "warning" if expected == ("logits",) else "failed"
    assert [finding.verdict for finding in findings] == [wanted] * len(expected), findings


def test_the_unmasked_model_is_not_flagged():
    """What the planted models are made of: so it is the masking that is found."""
    findings = check_masking(plain(0), *digits()[1], threat=THREAT, seed=0, teacher=plain(1))
    assert [finding.verdict for finding in findings] == ["passed"] * len(CHECKS), findings


@pytest.fixture(scope="module")
def striped(stripes):
    return next(iter(stripes.batches(400)))


@pytest.mark.parametrize("seed", [0, 1])
def test_adversarially_trained_models_are_sound(seed, striped):
    threat = SOUND_THREATS[seed]
    model = trained(small(seed, classes=4), *striped, seed=seed, threat=threat, epochs=6)
    findings = check_masking(model, *striped, threat=threat, seed=seed, examples=50)
    assert {finding.name: finding.verdict for finding in findings if finding.verdict != "passed"} == {
        "transfer": "skipped"
    }, findings


@pytest.mark.parametrize("threat", SOUND_THREATS, ids=["linf", "l2"])
def test_a_linear_model_is_sound(threat, striped):
    with seeded(3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model = trained(model, *striped, epochs=5)
    findings = check_masking(model, *striped, threat=threat, seed=0, teacher=model, examples=60)
    assert [finding.verdict for finding in findings] == ["passed"] * len(CHECKS), findings


def test_an_untrained_model_is_sound():
    """Labelled by itself. Its margins are tiny, and the cross-entropy leads elsewhere than where a margin ends."""
    model, images = small(3).eval(), digits()[1][0]
    with torch.no_grad():
        labels = model(images).argmax(1)
    findings = check_masking(
        model,
        images,
        labels,
        threat=ThreatModel("l2", 1.0),
        seed=3,
        checks=[check for check in CHECKS if check.name not in ("large-eps", "black-box")],
        teacher=plain(1),
    )
    assert not [finding for finding in findings if finding.verdict == "failed"], findings
