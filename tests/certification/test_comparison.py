"""A student held against its teacher: linear models, where the guarantee is known, and bounds that must nest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.certification import (
    CertificateComparison,
    Clever,
    clever,
    clever_against,
    interval_against,
    interval_bounds,
    smooth,
    smooth_against,
)
from kdiga.certification.interval import lipschitz_bounds
from kdiga.certification.interval_network import trace_network
from kdiga.certification.lipschitz import Sampling
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.certification.nets import inner_images, linear
from tests.conftest import five_layers

QUICK = {"batches": 20, "batch_size": 5}


def near_copy(seed: int, model: nn.Module, size: float = 0.3) -> nn.Module:
    """A linear model near another."""
    near = linear(seed)
    with torch.no_grad(), seeded(seed):
        near[1].weight.copy_(model[1].weight + size * torch.randn_like(model[1].weight))
        near[1].bias.copy_(model[1].bias)
    return near


def guaranteed(student: nn.Module, teacher: nn.Module, images, labels, dual: int, most: float) -> list[float]:
    logits = student(images).detach()
    own, taught = student[1].weight.detach(), teacher[1].weight.detach()
    radii = []
    for row, c in enumerate(labels.tolist()):
        found = [most]
        for j in (k for k in range(4) if k != c):
            lipschitz = torch.linalg.vector_norm(taught[c] - taught[j], ord=dual)
            rho = torch.linalg.vector_norm((own[c] - own[j]) - (taught[c] - taught[j]), ord=dual)
            found.append(float((logits[row, c] - logits[row, j]) / (lipschitz + rho)))
        radii.append(max(min(found), 0.0))
    return radii


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("method", ["clever", "interval"])
def test_of_linear_models_the_guarantee_is_the_formula(method, norm, dual):
    teacher = linear(1)
    student, images = near_copy(5, teacher), inner_images(8)
    labels = student(images).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    if method == "clever":
        found = clever_against(student, teacher, images, labels, norm=norm, max_radius=0.2, **QUICK)
        alone = clever(student, images, labels, norm=norm, max_radius=0.2, **QUICK)
    else:
        found = interval_against(student, teacher, images, labels, norm=norm, eps=0.2)
        alone = interval_bounds(student, images, labels, norm=norm, eps=0.2)
    assert found.student == alone, "its radii are those it has alone"
    assert found.guarantee is not None
    expected = guaranteed(student, teacher, images, labels, dual, 0.2)
    assert found.guarantee.radius == pytest.approx(expected, rel=1e-5)
    plain = found.to_dict()
    assert plain["alignment"]["share_within_measured"] == 1.0
    ratios = [g / r for g, r in zip(expected, alone.radius, strict=True) if g > 0]
    assert plain["alignment"]["median_guaranteed_over_measured"] == pytest.approx(
        sorted(ratios)[len(ratios) // 2], rel=1e-3
    )
    assert plain["alignment"]["median_rho_over_lipschitz"] > 0


def test_a_perfect_copy_has_its_teachers_radius():
    teacher, images = linear(1), inner_images(8)
    labels = teacher(images).argmax(1)
    found = clever_against(near_copy(1, teacher, 0.0), teacher, images, labels, max_radius=0.2, **QUICK)
    plain = found.to_dict()
    assert found.guarantee.radius == pytest.approx(found.teacher.radius, rel=1e-6)
    assert set(found.guarantee.rho) == {0.0}
    assert set(found.guarantee.margin_gap) == {0.0}
    assert (plain["compared"], plain["share_at_least_teacher"]) == (8, 1.0)
    assert plain["share_interval_95"] == pytest.approx([0.6306, 1.0], abs=1e-3)
    assert plain["student_curve"] == plain["teacher_curve"]


def test_which_examples_are_compared():
    """Wrong for either is no comparison; of all examples it still counts against the student."""
    teacher, images = linear(1), inner_images(10)
    labels = teacher(images).argmax(1)
    student = near_copy(1, teacher, 0.0)
    with torch.no_grad():
        student[1].weight.mul_(0.5)  # the same radii, the margins halved with the gradients
        student[1].bias.mul_(0.5)
    labels[:3] = (labels[:3] + 1) % 4
    plain = clever_against(student, teacher, images, labels, max_radius=0.2, **QUICK).to_dict()
    assert (plain["both_right"], plain["compared"]) == (7, 7)
    assert plain["share_of_all"] == pytest.approx(0.7 * plain["share_at_least_teacher"])
    assert plain["guaranteed_radius"][:3] == [0.0] * 3
    assert plain["rho"][:3] == [None] * 3
    assert all(gap < 0 for gap in plain["margin_gap"][3:])
    # rho is half of L, the margin too: a third of the teacher's radius is guaranteed.
    for own, radius in zip(plain["guaranteed_radius"][3:], plain["teacher_radius"][3:], strict=True):
        assert own == pytest.approx(radius / 3, rel=1e-5) or radius == 0.2


def test_only_examples_with_a_radius_in_both_are_compared():
    """By hand: right and larger, student wrong, teacher wrong, either unknown, both at the end of the ball."""
    sampling = Sampling(ThreatModel("linf", 0.2))
    own, others = (0.2, 0.0, 0.1, None, 0.1, 0.2, 0.05), (0.1, 0.1, 0.0, 0.1, None, 0.2, 0.1)
    student, teacher = (
        Clever(sampling, radii, (None,) * 7, radii.count(0.0), radii.count(None)) for radii in (own, others)
    )
    found = CertificateComparison(student, teacher, 0.2)
    assert found.compared == [0, 5, 6]
    plain = found.to_dict()
    assert (plain["both_right"], plain["compared"]) == (5, 3)
    assert plain["share_at_least_teacher"] == pytest.approx(2 / 3)
    assert plain["share_of_all"] == pytest.approx(2 / 7)
    none = CertificateComparison(student, Clever(sampling, (0.0,) * 7, (None,) * 7, 7, 0), 0.2).to_dict()
    assert (none["compared"], none["share_at_least_teacher"], none["share_interval_95"]) == (0, None, None)


def test_models_look_at_the_same_points(batch):
    images, _ = batch
    model = five_layers(2).eval()
    labels = model(images).argmax(1)
    found = clever_against(model, five_layers(2).eval(), images, labels, max_radius=0.1, **QUICK)
    assert found.student.radius == found.teacher.radius
    assert {rho for rho in found.guarantee.rho if rho is not None} <= {0.0}


def test_smoothing_compares_both_under_one_noise(batch):
    images, _ = batch
    model = five_layers(2).eval()
    labels = model(images).argmax(1)
    settings = {"sigma": 0.2, "samples": 60}
    found = smooth_against(model, five_layers(4).eval(), images, labels, **settings)
    assert found.student == smooth(model, images, labels, **settings)
    assert found.teacher == smooth(five_layers(4).eval(), images, labels, **settings)
    plain = found.to_dict()
    assert "guaranteed_radius" not in plain
    assert plain["norm"] == "l2"
    assert plain["teacher_curve"]["radius"][-1] == pytest.approx(found.largest_radius)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_proved_lipschitz_bounds_are_above_sampled_ones(norm, batch):
    images, labels = batch
    ball = ThreatModel(norm, 0.02)
    student, teacher = (five_layers(seed, activation=nn.ReLU).eval() for seed in (2, 3))
    bounds = lipschitz_bounds(
        trace_network(student, images[0]), trace_network(teacher, images[0]), images.double(), labels, ball
    )
    from kdiga.certification.lipschitz import largest_norms

    for row in range(3):
        sampled = largest_norms([student, teacher], images[row], labels[row], Sampling(ball, 10, 5), row)
        for bound, norms in zip(bounds, sampled, strict=True):
            assert bool((norms.amax(0).double() <= bound[row] * (1 + 1e-5)).all())
            assert bool((bound[row] < 20 * norms.amax(0)).all())


def test_intervals_against_a_teacher_keep_their_portions(batch, tmp_path):
    images, _ = batch
    student, teacher = (five_layers(seed, activation=nn.ReLU).eval() for seed in (2, 3))
    labels = student(images).argmax(1)
    shared = {"eps": 0.01, "folder": tmp_path}
    first = interval_against(student, teacher, images, labels, **shared)
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 3
    assert interval_against(student, teacher, images, labels, **shared) == first
    assert sorted(tmp_path.glob("*.json")) == files
    # Everything is proved: a guaranteed radius is one that no attack may break.
    assert all(radius is not None for radius in first.guarantee.radius)


def test_progress_of_intervals_against_a_teacher_is_told():
    teacher, images, calls = linear(1), inner_images(23), []
    labels = teacher(images).argmax(1)
    interval_against(near_copy(5, teacher), teacher, images, labels, eps=0.1, progress=lambda *step: calls.append(step))
    steps = [(20, 23), (23, 23)]
    assert calls == [(task, *step) for task in ("interval", "interval", "gradients") for step in steps]


def test_models_of_other_classes_are_refused():
    images, labels = inner_images(3), torch.tensor([0, 1, 2])
    for method in (clever_against, interval_against):
        with pytest.raises(InputError, match="has 4 classes and the teacher 5"):
            method(linear(1), linear(1, classes=5), images, labels)


def test_refusals_name_the_model():
    images, labels = inner_images(3), torch.tensor([0, 1, 2])
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    with pytest.raises(InputError, match=r"Tanh \(2\) of the teacher"):
        interval_against(linear(1), teacher, images, labels)
    with pytest.raises(InputError, match=r"Tanh \(2\) of the student"):
        interval_against(teacher, linear(1), images, labels)
