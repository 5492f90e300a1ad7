"""The two bounds: by hand, against each other, and never below what an attack finds."""

from __future__ import annotations

import pytest
import torch

from kdiga.analysis import Bound, Expansion, WorstCaseSearch, explain, student_bound, transfer_bound
from kdiga.analysis.explanation import diagnose
from kdiga.analysis.measures import Measurements, measure_model, measure_pair
from kdiga.analysis.worst_case import loss_score
from kdiga.model_state import evaluating, seeded
from kdiga.types import ThreatModel
from tests.conftest import five_layers

QUICK = WorstCaseSearch(steps=12, restarts=2, step=0.2)
DUAL = {"linf": 1, "l2": 2}


def explained(teacher, students, batch, norm="linf", eps=0.1, **options):
    measurements = Measurements(*batch, threat=ThreatModel(norm, eps), search=QUICK, **options)
    return explain(measurements, teacher, students, attack="pgd-3")


def test_terms_add_up():
    found = student_bound(
        0.5, linearity=[1.0, 2.0], teacher_gradient=[2.0, 4.0], distance=[6.0, 2.0], measured=[1.0, 4.0]
    )
    assert found.values == [5.0, 5.0]
    assert found.to_dict() == {
        "mean": 5.0,
        "measured": 2.5,
        "tightness": 0.5,
        "tightness_median": 0.5,
        "pieces": {"linearity": 1.5, "teacher_gradient": 1.5, "gradient_distance": 2.0},
    }
    assert found.largest_term == ("gradient_distance", 0.4)
    assert found.violations == 0
    found = transfer_bound(
        0.5, clean_gap=[1.0], distance=[2.0], student_linearity=[3.0], teacher_linearity=[4.0], measured=[10.0]
    )
    assert (found.mean, found.violations) == (9.0, 1)


def test_a_bound_of_zero_has_no_tightness():
    found = Bound({"all": [0.0, 0.0]}, [0.0, 0.0])
    assert (found.tightness, found.to_dict()["tightness_median"], found.violations) == (None, None, 0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.8)])
def test_bounds_are_never_below_what_was_found(teacher, student, batch, norm, eps):
    found = explained(teacher, {"a": student, "b": five_layers(7, batch_norm=False)}, batch, norm, eps)
    for one in found.students:
        assert one.student_bound.violations == one.transfer_bound.violations == 0
        assert 0.05 < one.student_bound.tightness <= 1
        assert 0.05 < one.transfer_bound.tightness <= 1
        assert min(one.student_bound.measured) > 0
    assert diagnose(found)[-1].verdict == "passed"


def test_gamma_is_the_largest_remainder_that_any_search_met(teacher, student, batch, monkeypatch):
    nothing = torch.zeros(12, dtype=torch.float64), batch[0]
    monkeypatch.setattr("kdiga.analysis.measures.local_linearity", lambda *_: nothing)
    met = measure_model(student, *batch, ThreatModel("linf", 0.1), QUICK)["linearity"]
    assert max(met) > 0, "the remainder where the loss is largest counts"

    def pair(*_):
        found = measure_pair(teacher, student, *batch, ThreatModel("linf", 0.1), QUICK)
        return {**found, "student_at_transfer": [100.0] * 12, "teacher_at_transfer": [50.0] * 12}

    monkeypatch.setattr("kdiga.analysis.measures.measure_pair", pair)
    found = explained(teacher, {"a": student}, batch)
    assert (list(found.teacher.linearity), list(found.students[0].linearity)) == ([50.0] * 12, [100.0] * 12)
    assert found.students[0].transfer_bound.mean > 150


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.8)])
def test_terms_are_what_a_plain_computation_gives(teacher, student, batch, norm, eps):
    images, labels = batch
    found = explained(teacher, {"a": student}, batch, norm, eps).students[0]
    with evaluating(student):
        own, reference = (Expansion.around(images, loss_score(model, labels)) for model in (student, teacher))
    lengths = [g.flatten(1).norm(DUAL[norm], dim=1) for g in (own.gradient - reference.gradient, reference.gradient)]
    terms = found.transfer_bound.terms
    assert terms["gradient_distance"] == pytest.approx((eps * lengths[0]).tolist(), rel=1e-5)
    assert terms["clean_gap"] == pytest.approx((own.values - reference.values).abs().tolist(), rel=1e-5)
    assert found.student_bound.terms["teacher_gradient"] == pytest.approx((eps * lengths[1]).tolist(), rel=1e-5)
    assert found.student_bound.terms["linearity"] == found.linearity == terms["student_linearity"]


def test_random_images_of_the_ball_are_no_worse_than_what_was_found(teacher, student, batch):
    """The measured worst is a maximum over the ball: no random corner beats it by more than the search is short."""
    images, labels = batch
    found = explained(teacher, {"a": student}, batch).students[0]
    with seeded(1), evaluating(student), torch.no_grad():
        own, reference = loss_score(student, labels), loss_score(teacher, labels)
        for _ in range(40):
            corner = (images + 0.1 * torch.randn_like(images).sign()).clamp(0, 1)
            rise, apart = own(corner) - own(images), (own(corner) - reference(corner)).abs()
            assert (rise <= torch.tensor(found.student_bound.measured) + 1e-3).all()
            assert (apart <= torch.tensor(found.transfer_bound.measured) + 1e-3).all()


def test_a_model_beside_itself_has_only_its_own_remainders(teacher, batch):
    found = explained(teacher, {"itself": teacher}, batch).students[0]
    assert found.transfer_bound.measured == [0.0] * 12
    assert found.transfer_bound.terms["clean_gap"] == [0.0] * 12
    assert found.transfer_bound.terms["gradient_distance"] == [0.0] * 12
    assert found.transfer_bound.values == pytest.approx([2 * gamma for gamma in found.linearity])
    assert found.cosine == pytest.approx([1.0] * 12)
