"""CLEVER against closed forms and a slow reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiga.certification import clever
from kdiga.certification.class_scores import ClassScores, other_classes
from kdiga.certification.clever import clever_radii, smallest_ratio
from kdiga.certification.lipschitz import LipschitzEstimates, Sampling, fast_convolutions, largest_norms
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.certification.nets import closed_form, inner_images, linear
from tests.conftest import five_layers

QUICK = {"batches": 20, "batch_size": 5}


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_of_a_linear_classifier_it_is_exact(norm, dual):
    model, images = linear(), inner_images(8)
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    found = clever(model, images, labels, norm=norm, max_radius=1.0, **QUICK)
    true = closed_form(model, images, labels, dual)
    assert found.radius == pytest.approx(true.tolist(), rel=1e-6)
    assert (found.wrong, found.failed, found.correct[0], found.radius[0]) == (1, 0, False, 0.0)
    capped = clever(model, images, labels, norm=norm, max_radius=float(true[true > 0].median()), **QUICK)
    assert capped.radius == pytest.approx(true.clamp_max(float(true[true > 0].median())).tolist(), rel=1e-6)
    assert found.to_dict()["goodness"] == {"median_p": None, "rejected_share": None, "fits": 0}


def test_a_kink_in_the_ball_is_found_and_one_outside_is_not():
    """The margin of 2 relu(x - 0.6) + x has slope 1 below 0.6 and 3 above."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[1].bias.copy_(torch.tensor([0.0, -0.6]))
        model[3].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
        model[3].bias.copy_(torch.tensor([0.0, 0.3]))
    image = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)  # margin 0.2
    near = clever(model, image, torch.tensor([0]), max_radius=0.05, batches=20, batch_size=50)
    far = clever(model, image, torch.tensor([0]), max_radius=0.4, batches=20, batch_size=50)
    assert near.radius == pytest.approx([0.05])
    assert far.radius == pytest.approx([0.2 / 3])


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_norms_are_those_of_single_gradients(norm, dual, batch):
    images, labels = batch
    model = five_layers(2).eval()
    ball = ThreatModel(norm, 0.1)
    sampling = Sampling(ball, 5, 4, seed=7)
    with fast_convolutions([model]):
        (found,) = largest_norms([model], images[0], labels[0], sampling, 0, points=5)
    from kdiga.attacks import uniform_start

    with seeded(7, 0):
        points = uniform_start(images[:1].expand(20, -1, -1, -1), ball)
    for place, other in enumerate(other_classes(labels[:1], 10)[0].tolist()):
        norms = []
        for point in points:
            x = point[None].clone().requires_grad_()
            logits = model(x)[0]
            (gradient,) = torch.autograd.grad(logits[labels[0]] - logits[other], x)
            norms.append(torch.linalg.vector_norm(gradient.flatten(), ord=dual))
        assert torch.allclose(found[:, place], torch.stack(norms).view(5, 4).amax(1), rtol=1e-4)


def test_points_stay_in_the_ball_and_in_the_pixels():
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return torch.stack((x.sum((1, 2, 3)), -x.sum((1, 2, 3))), 1)

    image = torch.tensor([0.02, 0.5, 0.97, 0.5]).view(1, 2, 2)
    largest_norms([Watch()], image, torch.tensor(0), Sampling(ThreatModel("linf", 0.1), 50, 4), 1)
    points = torch.cat(seen)
    assert len(points) == 200
    assert points.min() == 0
    assert points.max() == 1
    assert float((points - image).abs().max()) <= 0.1 + 1e-6
    assert float((points - image).abs().max()) > 0.09


def test_answers_depend_on_the_seed_and_not_on_how_the_work_is_cut(batch):
    images, _ = batch
    model = five_layers(2).eval()
    labels = model(images).argmax(1)
    labels[:2] = (labels[:2] + 1) % 10
    shared = {"max_radius": 0.1, **QUICK}
    whole = known(clever(model, images, labels, **shared).radius)
    assert known(clever(model, images, labels, points=7, **shared).radius) == pytest.approx(whole, rel=1e-4)
    assert known(clever(model, images[:7], labels[:7], **shared).radius) == pytest.approx(whole[:7], rel=1e-4)
    other = known(clever(model, images, labels, seed=1, **shared).radius)
    assert other != whole
    both = [(a, b) for a, b in zip(whole, other, strict=True) if a >= 0 and b >= 0]
    assert len(both) >= 6
    assert all(a == pytest.approx(b, rel=0.5) for a, b in both)


def known(radii) -> list[float]:
    return [-1.0 if radius is None else radius for radius in radii]


def test_finished_portions_are_taken_up_and_others_are_not(batch, tmp_path):
    images, _ = batch
    model = five_layers(2).eval()
    labels = model(images).argmax(1)
    calls = []
    handle = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    shared = {"max_radius": 0.1, "folder": tmp_path, **QUICK}
    first = clever(model, images, labels, **shared)
    needed = sum(calls)
    calls.clear()
    assert clever(model, images, labels, **shared) == first
    assert sum(calls) < needed / 20
    calls.clear()
    clever(model, images, labels, **shared | {"seed": 1})
    assert sum(calls) == needed
    calls.clear()
    clever(five_layers(3).eval(), images, labels, **shared)
    handle.remove()
    assert clever(model, images, labels, max_radius=0.1, **QUICK) == first


def test_the_model_is_left_as_found(batch):
    images, labels = batch
    model = five_layers(2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    clever(model, images, labels, max_radius=0.1, **QUICK)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())
    evaluated = clever(five_layers(2).eval(), images, labels, max_radius=0.1, **QUICK)
    assert clever(model, images, labels, max_radius=0.1, **QUICK).radius == evaluated.radius, "in eval mode"


def test_quick_convolutions_change_nothing_but_rounding(batch):
    images, _ = batch
    with seeded(2):
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(12, 4, 3, groups=2),
            nn.Conv2d(4, 6, 1),
            nn.Conv2d(6, 6, 2, dilation=1, padding=(1, 0)),
            nn.Flatten(),
            nn.Linear(18, 10),
        )
    x = images.clone().requires_grad_()
    expected = model(x)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    with fast_convolutions([model]):
        found = model(x)
        (again,) = torch.autograd.grad(found.square().sum(), x)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(again, gradient, atol=1e-4)
    assert torch.equal(model(x), expected)


def test_a_failed_fit_leaves_no_radius_unless_its_class_cannot_decide():
    nan = float("nan")
    cases = (
        ([1.0, 1.0], [2.0, 4.0], [2.0, 4.0], 0.25, 1),
        ([1.0, 1.0], [nan, 4.0], [3.0, 4.0], None, None),  # at twice 3, it would decide
        ([1.0, 1.0], [nan, 4.0], [1.9, 4.0], 0.25, 1),
        ([1.0, 1.0], [nan, 0.5], [0.4, 0.5], 0.9, 1),  # the ball decides
        ([1.0, 1.0], [nan, nan], [0.4, 0.5], 0.9, None),
        ([1.0, 1.0], [0.0, 4.0], [0.0, 4.0], None, None),  # no gradient was seen: no knowledge, not an infinite radius
    )
    for margins, constants, largest, radius, place in cases:
        given = (torch.tensor(part, dtype=torch.float64) for part in (margins, constants, largest))
        assert smallest_ratio(*given, 0.9) == (radius, place)


def test_failures_are_counted_and_never_a_number():
    answers = ClassScores(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 0]))
    nan = float("nan")
    found = LipschitzEstimates(
        *(torch.tensor(part)[:, None].double() for part in ([2.0, nan, 9.0], [2.0, 8.0, 9.0], [0.5, nan, 1.0]))
    )
    report = clever_radii(answers, found, Sampling(ThreatModel("linf", 1.0)))
    assert report.radius == (0.5, None, 0.0)
    assert (report.failed, report.wrong) == (1, 1)
    plain = report.to_dict()
    assert plain["radius"] == [0.5, None, 0.0]
    assert plain["goodness"] == {"median_p": 0.5, "rejected_share": 0.0, "fits": 1}
    assert plain["curve"]["accuracy"][0] == pytest.approx(1 / 3)
    assert plain["curve"]["radius"][-1] == 1.0
    assert plain["curve"]["accuracy"][-1] == 0


def test_gradients_that_are_hidden_are_told(batch):
    class Rounding(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = five_layers(2)

        def forward(self, x):
            return self.model(torch.round(x * 8) / 8)

    images, _ = batch
    model = Rounding().eval()
    labels = model(images).argmax(1)
    with pytest.raises(InputError, match="every input gradient"):
        clever(model, images, labels, max_radius=0.1, **QUICK)

    class Detached(Rounding):
        def forward(self, x):
            return super().forward(x.detach())

    with pytest.raises(InputError, match="no gradient reaches"):
        clever(Detached().eval(), images, labels, max_radius=0.1, **QUICK)


@pytest.mark.parametrize("settings", [{"batches": 4}, {"batch_size": 0}, {"max_radius": 0}, {"max_radius": 3}])
def test_settings_out_of_range_are_refused(batch, settings):
    with pytest.raises(InputError):
        clever(five_layers(2), *batch, **settings)
