"""What result files hold, written out by hand: other programs read these fields."""

from __future__ import annotations

import inspect

import pytest
import torch
from scipy.stats import beta

from kdiga.certification import (
    CertificateComparison,
    Clever,
    IntervalBounds,
    Smoothed,
    clever,
    clever_against,
    interval_against,
    interval_bounds,
)
from kdiga.certification.certificate import accuracy_curve, certified_accuracy, share
from kdiga.certification.comparison import AlignmentGuarantee, alignment_guarantee
from kdiga.certification.lipschitz import Sampling
from kdiga.certification.smoothing import Noise, lower_bound
from kdiga.statistics import median_known
from kdiga.types import ThreatModel

NAN = float("nan")


def curve(end: float, accuracy) -> dict:
    radii = [end * place / 40 for place in range(41)]
    return {"radius": pytest.approx(radii), "accuracy": [accuracy(radius) for radius in radii]}


def test_clever():
    sampling = Sampling(ThreatModel("l2", 0.4), 7, 3, 9)
    found = Clever(sampling, (0.4, 0.0, None, 0.1), (0.5, None, None, 0.01), 1, 1)
    assert found.to_dict() == {
        "norm": "l2",
        "max_radius": 0.4,
        "batches": 7,
        "batch_size": 3,
        "radius": [0.4, 0.0, None, 0.1],
        "failed": 1,
        "wrong": 1,
        "goodness": {"median_p": 0.255, "rejected_share": 0.5, "fits": 2},
        "curve": curve(0.4, lambda radius: 0.5 if radius <= 0.1 else 0.25),
    }
    assert found.correct == (True, False, True, True)
    assert [found.accuracy(radius) for radius in (0.0, 0.1, 0.11, 0.4, 0.5)] == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert sampling.key() == {"norm": "l2", "radius": 0.4, "batches": 7, "batch_size": 3, "seed": 9}


def test_a_fit_is_rejected_below_five_percent():
    edge = Clever(Sampling(ThreatModel("linf", 0.1)), (0.1,) * 3, (0.05, 0.049, 0.9), 0, 0)
    assert edge.to_dict()["goodness"]["rejected_share"] == pytest.approx(1 / 3)


def test_interval():
    proved = (True, False, True)
    found = IntervalBounds(ThreatModel("linf", 0.1), 0.2, (0.2, 0.0, 0.1), proved, (True, False, True))
    assert found.to_dict() == {
        "norm": "linf",
        "max_radius": 0.2,
        "radius": [0.2, 0.0, 0.1],
        "accuracy": pytest.approx(2 / 3),
        "interval_95": pytest.approx([beta.ppf(0.025, 2, 2), beta.ppf(0.975, 3, 1)]),
        "wrong": 1,
        "curve": curve(0.2, lambda radius: pytest.approx((2 if radius <= 0.1 else 1) / 3)),
    }
    assert found.accuracy(0.15) == pytest.approx(1 / 3)


def test_smoothing():
    noise = Noise(0.5, 200, 30, 0.01, 7)
    end = 0.5 * torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.01 ** (1 / 200), dtype=torch.float64)).item()
    found = Smoothed(noise, (0.3, 0.0, 0.0), (2, 1, None), 1, 1)
    assert found.to_dict() == {
        "norm": "l2",
        "sigma": 0.5,
        "samples": 200,
        "selection_samples": 30,
        "alpha": 0.01,
        "largest_radius": pytest.approx(end),
        "radius": [0.3, 0.0, 0.0],
        "prediction": [2, 1, None],
        "abstained": 1,
        "wrong": 1,
        "curve": curve(found.noise.largest_radius, lambda radius: pytest.approx((radius <= 0.3) / 3)),
    }
    assert found.correct == (True, False, False)
    assert noise.key() == {"sigma": 0.5, "samples": 200, "selection_samples": 30, "alpha": 0.01, "seed": 7}


def test_a_statement():
    """Right and known, wrong, failed, right with a teacher that has no slope, and measured to be 0."""
    statement = AlignmentGuarantee(
        (0.1, 0.0, None, 0.3, 0.2),
        (0.5, None, None, 1.0, 3.0),
        (2.0, None, None, 0.0, 1.0),
        (0.4, None, None, -0.2, 0.1),
    )
    assert statement.to_dict((0.4, 0.0, 0.2, 0.2, 0.0)) == {
        "guaranteed_radius": [0.1, 0.0, None, 0.3, 0.2],
        "rho": [0.5, None, None, 1.0, 3.0],
        "teacher_lipschitz": [2.0, None, None, 0.0, 1.0],
        "margin_gap": [0.4, None, None, -0.2, 0.1],
        "alignment": {
            "known": 3,
            "failed": 1,
            "median_rho_over_lipschitz": pytest.approx((0.25 + 3.0) / 2),
            "median_margin_gap": 0.1,
            "median_guaranteed_over_measured": pytest.approx((0.25 + 1.5) / 2),
            "share_within_measured": pytest.approx(1 / 3),
            "share_within_measured_95": pytest.approx([beta.ppf(0.025, 1, 3), beta.ppf(0.975, 2, 2)]),
        },
    }
    rounded = AlignmentGuarantee((0.1 * (1 + 5e-7), 0.1 * (1 + 2e-6)), (None,) * 2, (None,) * 2, (None,) * 2)
    plain = rounded.to_dict((0.1, 0.1))["alignment"]
    assert plain["share_within_measured"] == 0.5, "within what float32 margins may differ by"
    assert plain["median_rho_over_lipschitz"] is None
    assert plain["median_margin_gap"] is None


def test_what_alignment_guarantees_by_hand():
    """Class 2 decides example 0, the ball example 1; example 2 is wrong; of example 3 a constant is unknown."""
    margins = torch.tensor([[1.0, 0.5], [8.0, 9.0], [-1.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    teachers = torch.tensor([[3.0, 0.25], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    taught = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 1.0], [NAN, 1.0]], dtype=torch.float64)
    gap = torch.tensor([[0.5, 3.0], [1.0, 2.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    correct, at_least = torch.tensor([True, True, False, True]), torch.full((4, 2), 2.0, dtype=torch.float64)
    found = alignment_guarantee((margins, teachers), correct, taught, gap, at_least, 0.9)
    assert found.radius == (0.1, 0.9, 0.0, None)
    assert found.rho == (3.0, 2.0, None, None)
    assert found.teacher_lipschitz == (2.0, 2.0, None, None)
    assert found.margin_gap == (0.25, 8.0, None, None)
    at_least[3, 0] = 0.5  # at twice as much the unknown one could not decide
    assert alignment_guarantee((margins, teachers), correct, taught, gap, at_least, 0.9).radius[3] == 0.5


def test_a_student_beside_its_teacher():
    sampling = Sampling(ThreatModel("l2", 0.2))
    student = Clever(sampling, (0.2, 0.1, 0.0, None), (None,) * 4, 1, 1)
    teacher = Clever(sampling, (0.1, 0.2, 0.1, 0.1), (None,) * 4, 0, 0)
    assert CertificateComparison(student, teacher, 0.2).to_dict() == {
        "norm": "l2",
        "teacher_radius": [0.1, 0.2, 0.1, 0.1],
        "student_radius": [0.2, 0.1, 0.0, None],
        "both_right": 3,
        "compared": 2,
        "share_at_least_teacher": 0.5,
        "share_interval_95": pytest.approx([beta.ppf(0.025, 1, 2), beta.ppf(0.975, 2, 1)]),
        "share_of_all": 0.25,
        "share_of_all_interval_95": pytest.approx([beta.ppf(0.025, 1, 4), beta.ppf(0.975, 2, 3)]),
        "teacher_curve": curve(0.2, lambda radius: 1.0 if radius <= 0.1 else 0.25),
        "student_curve": curve(0.2, lambda radius: 0.5 if radius <= 0.1 else 0.25),
    }


def test_curves_and_shares_by_hand():
    radii = (0.0, None, 0.5, 1.0)
    assert [certified_accuracy(radii, radius) for radius in (0.0, 0.5, 0.6, 1.0, 1.1)] == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert accuracy_curve(radii, 1.0)["radius"][:2] == [0.0, 0.025]
    assert median_known(radii) == 0.5
    assert median_known((None, None)) is None
    assert share([]) == (None, None)
    assert share([True, True]) == (1.0, pytest.approx([0.025**0.5, 1.0]))
    assert lower_bound(3, 10, 0.05) == pytest.approx(beta.ppf(0.05, 3, 8))


@pytest.mark.parametrize("largest", [k / 510 for k in range(1, 129)] + [Noise(0.25, 100_000).largest_radius])
def test_a_curve_ends_at_the_largest_radius_itself(largest):
    """One rounding unit more, and no example would be certified there."""
    found = accuracy_curve((largest, largest, largest, 0.0), largest)
    assert found["radius"][-1] == largest
    assert found["accuracy"] == [0.75] * 41


def defaults(of) -> dict:
    return {name: entry.default for name, entry in inspect.signature(of).parameters.items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [(clever_against, clever), (interval_against, interval_bounds)],
)
def test_a_default_is_the_same_in_both_places(one, other):
    these, those = defaults(one), defaults(other)
    shared = [name for name in these if name in those and name not in ("images", "labels")]
    assert len(shared) >= 3
    assert {name: these[name] for name in shared} == {name: those[name] for name in shared}
    assert those.get("norm", "linf") == "linf"
