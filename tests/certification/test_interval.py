"""Interval bounds: closed forms, hand-worked networks, and no attack or point that leaves them."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import nn

import kdiga
from kdiga.attacks import PGD, uniform_start
from kdiga.certification import interval_bounds
from kdiga.certification.class_scores import other_classes
from kdiga.certification.interval_network import trace_network
from kdiga.certification.interval_propagation import bound_margins, bound_values
from kdiga.errors import InputError
from kdiga.losses import margin
from kdiga.model_state import seeded
from kdiga.types import ThreatModel
from tests.certification.nets import closed_form, gradient_bounds, inner_images, linear, radii_in, small_convolutional
from tests.conftest import five_layers

NORMS = [("linf", 1), ("l2", 2)]


def two_layers(seed: int, pixels: int = 4, hidden: int = 6, classes: int = 3) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, classes)).double()


@pytest.mark.parametrize(("norm", "dual"), NORMS)
def test_of_a_linear_classifier_they_are_exact(norm, dual):
    model, images = linear(), inner_images(8)
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    found = interval_bounds(model, images, labels, norm=norm, eps=0.02, max_radius=0.25)
    true = closed_form(model, images, labels, dual).clamp_max(0.25)
    assert found.radius == pytest.approx(true.tolist(), abs=1e-6)
    assert all(radius <= best for radius, best in zip(found.radius, true.tolist(), strict=True)), "never above it"
    assert list(found.proved) == [radius >= 0.02 for radius in found.radius]
    assert (found.wrong, found.correct[0]) == (1, False)
    assert found.to_dict()["accuracy"] == pytest.approx(sum(found.proved) / 8)


def test_a_ball_ends_where_pixels_do():
    """Margin 0.5 - x + y at x = 1, y = 0.6: x cannot rise, so only y may fall, and the radius is 0.1, not 0.05."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([0.5, 0.0]))
    image = torch.tensor([1.0, 0.6], dtype=torch.float64).view(1, 1, 1, 2)
    for norm in ("linf", "l2"):
        found = interval_bounds(model, image, torch.tensor([0]), norm=norm, eps=0.5)
        assert found.radius == pytest.approx([0.1], abs=1e-6)


def test_a_two_layer_network_by_hand():
    """One pixel at 0.5, units relu(x - 0.4) and relu(0.7 - x), margin 1 - 4 u1 + u2.

    In a box of radius r: u1 <= 0.1 + r, u2 >= 0.2 - r, so the bound is 0.8 - 5 r and the radius 0.16; beyond 0.2 the
    second unit would be cut off at 0. Its slopes: u1 is on below 0.1, u2 below 0.2; then the gradient is -5.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[1].bias.copy_(torch.tensor([-0.4, 0.7]))
        model[3].weight.copy_(torch.tensor([[-4.0, 1.0], [0.0, 0.0]]))
        model[3].bias.copy_(torch.tensor([1.0, 0.0]))
    image, label = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    for norm in ("linf", "l2"):
        assert interval_bounds(model, image, label, norm=norm, eps=0.3).radius == pytest.approx([0.16], abs=1e-6)
    slopes = {0.05: (-5, -5), 0.15: (-5, -1), 0.25: (-5, 0)}
    for radius, (low, high) in slopes.items():
        found = gradient_bounds(model, image, label, ball=ThreatModel("linf", radius))
        assert [float(part) for part in found] == pytest.approx([low, high], abs=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_leaves_the_margins_bounds(norm):
    model, images = small_convolutional().double(), inner_images(5, side=6)
    with seeded(4):
        images = (images + 0.6 * torch.rand_like(images) - 0.3).clamp(0, 1)
    network, labels = trace_network(model, images[0]), torch.tensor([0, 1, 2, 3, 0])
    others = other_classes(labels, 4)
    for radius in (0.0, 0.01, 0.1, 0.5):
        ball = ThreatModel(norm, radius)
        bound = bound_margins(network, bound_values(network, images, radii_in(ball, images), norm), labels)
        for seed in range(30):
            with seeded(seed), torch.no_grad():
                logits = model(uniform_start(images, ball))
            found = logits.gather(1, labels[:, None]) - logits.gather(1, others)
            assert bool((found >= bound).all())
        if radius == 0:
            assert torch.allclose(found, bound, atol=1e-9)


def test_every_value_of_every_layer_stays_inside():
    """Corner by corner, where the worst of a box is for the first layers."""
    model = small_convolutional().double()
    image = inner_images(1, side=6)
    network = trace_network(model, image[0])
    assert len(network.layers) >= 12
    bounds = bound_values(network, image, torch.tensor([0.05], dtype=torch.float64), "linf")
    with seeded(0):
        signs = torch.randint(0, 2, (300, *image.shape[1:])).double() * 2 - 1
    values = network.values(image + 0.05 * signs)
    for value, box in zip(values, bounds.intervals, strict=True):
        assert bool((value >= box.center - box.radius).all())
        assert bool((value <= box.center + box.radius).all())
    # The first convolution's bounds are tight: each output reaches its own at some corner.
    first = next(place for place, layer in enumerate(network.layers) if layer.name == "stem") + 1
    weight = model.stem.weight.detach().sign()[0, 0]
    worst = image.clone()
    worst[0, 0, 1:4, 1:4] += 0.05 * weight
    box = bounds.intervals[first]
    assert network.values(worst)[first][0, 0, 2, 2] == pytest.approx(
        float((box.center + box.radius)[0, 0, 2, 2]), abs=1e-9
    )


def test_l2_rows_are_tight_for_the_first_layer():
    model, images = two_layers(5), inner_images(3, side=2)
    network = trace_network(model, images[0])
    bounds = bound_values(network, images, torch.full((3,), 0.1, dtype=torch.float64), "l2")
    box = bounds.intervals[2]
    expected = 0.1 * model[1].weight.norm(dim=1)
    assert torch.allclose(box.radius, expected.expand_as(box.radius), atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("build", [small_convolutional, lambda: five_layers(2, activation=nn.ReLU).eval()])
def test_no_attack_succeeds_within_a_proved_radius(norm, build):
    model = build().double()
    images = inner_images(8, side=8 if isinstance(model, nn.Sequential) else 6)
    labels = model(images).argmax(1)
    found = interval_bounds(model, images, labels, norm=norm, eps=0.3)
    assert sum(radius > 1e-4 for radius in found.radius) >= 6
    for row, radius in enumerate(found.radius):
        image, label = images[row : row + 1], labels[row : row + 1]
        attack = PGD(threat=ThreatModel(norm, radius), steps=20, keep_best=True)
        for seed in range(3):
            with seeded(seed):
                adv = attack(lambda x, label=label: margin(model(x), label), image)
            assert int(model(adv).argmax()) == int(label)


@pytest.mark.parametrize(("norm", "dual"), NORMS)
def test_no_gradient_leaves_its_bounds(norm, dual):
    model, images = small_convolutional().double(), inner_images(3, side=6)
    labels, ball = torch.tensor([0, 3, 1]), ThreatModel(norm, 0.05)
    low, high = gradient_bounds(model, images, labels, ball=ball)
    others = other_classes(labels, 4)
    widest = torch.zeros_like(low)
    for seed in range(20):
        with seeded(seed):
            points = uniform_start(images, ball).requires_grad_()
        logits = model(points)
        for place in range(3):
            score = (logits.gather(1, labels[:, None]) - logits.gather(1, others[:, place, None])).sum()
            (gradient,) = torch.autograd.grad(score, points, retain_graph=True)
            assert bool((gradient >= low[:, place]).all())
            assert bool((gradient <= high[:, place]).all())
            widest[:, place] = widest[:, place].maximum(gradient.abs())
    assert bool((high - low > 1e-6).any()), "some unit may switch, or nothing was tested"
    tight = gradient_bounds(model, images, labels, ball=ThreatModel(norm, 0.0))
    assert torch.allclose(tight[0], tight[1], atol=1e-9)


def test_gradients_of_a_network_without_relu_are_exact():
    model, images = linear(), inner_images(2)
    labels = torch.tensor([1, 2])
    low, high = gradient_bounds(model, images, labels, ball=ThreatModel("linf", 0.2))
    weight = model[1].weight.detach()
    expected = (weight[labels][:, None] - weight[other_classes(labels, 4)]).view(2, 3, 1, 3, 3)
    assert torch.allclose(low, expected, atol=1e-12)
    assert torch.allclose(high, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["cnn-4", "resnet8", "resnet10", "preact-resnet18", "mobilenet-v2"])
def test_the_built_in_networks_are_covered(name):
    with seeded(1):
        model = kdiga.load_model(name, image_size=8, normalization="cifar10")
        images = torch.rand(2, 3, 8, 8)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.weight.data.uniform_(0.8, 1.2)
    network = trace_network(model, images[0])
    features = network.values(images.double())[-1]
    expected = model.double()(images.double())
    assert torch.allclose(features @ network.weight.T + network.bias, expected, rtol=1e-9, atol=1e-12)


def test_a_radius_of_its_own_and_the_eps_that_is_asked_for():
    """One may be larger than the other; what is proved at eps is not what is found below max_radius."""
    model, images = linear(), inner_images(8)
    labels = model(images).argmax(1).int()
    true = closed_form(model, images, labels, 1).tolist()
    eps, most = sorted(true)[4] * 1.001, sorted(true)[1] * 1.5
    found = interval_bounds(model, images, labels, eps=eps, max_radius=most)
    assert list(found.proved) == [radius > eps for radius in true]
    assert found.radius == pytest.approx([min(radius, most) for radius in true], abs=1e-6)
    assert max(found.radius) == most
    assert (found.max_radius, found.threat) == (most, ThreatModel("linf", eps))
    usual = interval_bounds(model, images, labels, eps=eps)
    assert (usual.max_radius, usual.proved) == (eps, found.proved)
    assert [radius == eps for radius in usual.radius] == list(usual.proved), "not a hair below an eps that was proved"
    nothing = interval_bounds(model, images, labels, eps=0, max_radius=0.1)
    assert nothing.proved == (True,) * 8
    for bad in ({"eps": 0}, {"eps": 0.1, "max_radius": 0}):
        with pytest.raises(InputError, match="largest radius was 0; it must be above 0"):
            interval_bounds(model, images, labels, **bad)


def test_more_examples_than_a_portion_holds():
    model, images = linear(), inner_images(45)
    labels, calls = model(images).argmax(1), []
    found = interval_bounds(model, images, labels, eps=0.2, progress=lambda *step: calls.append(step))
    assert found.radius == pytest.approx(closed_form(model, images, labels, 1).clamp_max(0.2).tolist(), abs=1e-6)
    assert calls == [("interval", 20, 45), ("interval", 40, 45), ("interval", 45, 45)]


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(9, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        return self.last(nn.functional.relu(2 * self.first(x)))


def test_a_forward_of_ones_own_is_covered():
    with seeded(0):
        model, images = Viewed().double(), inner_images(4)
    labels = model(images).argmax(1)
    assert min(interval_bounds(model, images, labels, eps=0.3).radius) > 0


class Twice(nn.Module):
    def __init__(self, between) -> None:
        super().__init__()
        self.between, self.last = between, nn.Linear(9, 4)

    def forward(self, x):
        return self.last(self.between(x.flatten(1)))


class Branching(Twice):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Twice(nn.SiLU()), r"SiLU \(between\)"),
        (lambda: Twice(torch.sigmoid), "sigmoid"),
        (lambda: Twice(lambda x: x * x), "mul"),
        (lambda: Twice(lambda x: 1 / (1 + x)), "truediv"),
        (lambda: Twice(nn.Softmax(1)), "Softmax"),
        (lambda: Branching(nn.ReLU()), "cannot be traced"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU()), "end in a linear layer"),
        (lambda: nn.Sequential(nn.MaxPool2d(1), nn.Flatten(), nn.Linear(9, 4)), "MaxPool2d"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 1, padding_mode="circular"), nn.Flatten(), nn.Linear(9, 4)),
            "Conv2d",
        ),
    ],
)
def test_other_layers_are_refused_by_name(build, message):
    with seeded(0):
        model, images = build().double(), inner_images(3)
    with pytest.raises(InputError, match=message) as refused:
        interval_bounds(model, images, torch.tensor([0, 1, 2]), eps=0.1)
    assert "--method clever" in str(refused.value) or "nn.Linear" in str(refused.value)
    assert "\n" not in str(refused.value)


class Reading(nn.Module):
    """A linear model that reads its images in an odd way."""

    def __init__(self, read) -> None:
        super().__init__()
        self.read, self.last, self.shift = read, nn.Linear(9, 4).double(), nn.Parameter(torch.tensor(0.25).double())

    def forward(self, x):
        return self.read(self, x.flatten(1))


class OfTwo(Reading):
    def forward(self, x, y):
        return self.last(x.flatten(1) + y.flatten(1))


def test_odd_networks():
    images = inner_images(2)
    shifted = trace_network(Reading(lambda self, x: self.last(x + self.shift)), images[0])
    assert [layer.name for layer in shifted.layers] == ["flatten", "add"]
    bare = nn.Sequential(nn.Flatten(), nn.Linear(9, 4, bias=False)).double()
    assert trace_network(bare, images[0]).bias.tolist() == [0.0] * 4
    branches = Reading(lambda self, x: self.last(torch.relu(x) - 2 * x))
    network = trace_network(branches, images[0])
    assert torch.allclose(network.logits(images), branches(images))
    with pytest.raises(InputError, match=r"a second input of the model"):
        trace_network(OfTwo(None), images[0])
    with pytest.raises(InputError, match=r"its output of the teacher"):
        trace_network(Reading(lambda self, x: (self.last(x), x)), images[0], "teacher")
    for read in (
        lambda self, x: self.last(x) + 1,
        lambda self, x: torch.cat((self.last(x), x), 1),
        lambda self, x: self.last(x) + x[:, :4],
        lambda self, x: self.last(x.relu()).relu(),
    ):
        with pytest.raises(InputError, match=r"of the model|model does not end in a linear layer"):
            trace_network(Reading(read), images[0])


def test_a_model_is_taken_apart_in_float64_and_stays_what_it_was(batch):
    model = five_layers(2, activation=nn.ReLU).train()
    network = trace_network(model, batch[0][0])
    assert network.weight.dtype == torch.float64
    assert not network.weight.requires_grad
    assert model.training
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.requires_grad


def test_a_hook_that_changes_answers_is_noticed():
    model, images = linear(), inner_images(3)
    model[1].register_forward_hook(lambda module, inputs, out: out.square())
    with pytest.raises(InputError, match="such as a hook, of the model"):
        interval_bounds(model, images, torch.tensor([0, 1, 2]), eps=0.1)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Linear(8, 4)).double()
    wider[1].register_forward_hook(lambda module, inputs, out: torch.cat((out, out), 1))
    with pytest.raises(InputError, match=r"do not cover a layer \(mat1 and mat2 .*\) of the model") as refused:
        interval_bounds(wider, images, torch.tensor([0, 1, 2]), eps=0.1)
    assert "\n" not in str(refused.value)


def test_the_model_is_left_as_found(batch):
    model = five_layers(2, activation=nn.ReLU).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = interval_bounds(model, *batch, eps=0.1)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    assert interval_bounds(model.eval(), *batch, eps=0.1) == found


def test_finished_portions_are_taken_up(batch, tmp_path):
    model = five_layers(2, activation=nn.ReLU).eval()
    calls = []
    shared = {"eps": 0.1, "folder": tmp_path, "progress": lambda *step: calls.append(step)}
    first = interval_bounds(model, *batch, **shared)
    files = sorted(tmp_path.glob("*.json"))
    assert interval_bounds(model, *batch, **shared) == first
    assert sorted(tmp_path.glob("*.json")) == files
    assert calls[-1] == ("interval", 12, 12)
    assert interval_bounds(model, *batch, **shared | {"eps": 0.05}).max_radius == 0.05


def test_rounding_is_allowed_for():
    """A large number is added and taken away again; the exact value, a fraction, has to be in the box all the same."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 2)).double()
    weight, shift, x = 0.001, 1e8 + 1 / 3, 0.7
    with torch.no_grad():
        model[1].weight.fill_(weight)
        model[1].bias.fill_(shift)
        model[2].weight.fill_(1.0)
        model[2].bias.fill_(-shift)
    image = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
    box = bound_values(trace_network(model, image[0]), image, torch.zeros(1, dtype=torch.float64), "linf").intervals[-1]
    center, radius = Fraction(float(box.center)), Fraction(float(box.radius))
    exact = Fraction(weight) * Fraction(x)
    assert abs(center - exact) > Fraction(1, 10**10), "or nothing was rounded"
    assert abs(center - exact) <= radius
    assert radius < Fraction(1, 10**6)


def test_corners_of_a_tiny_network_are_all_inside():
    model, image = two_layers(8), inner_images(1, side=2)
    network, label = trace_network(model, image[0]), torch.tensor([0])
    bounds = bound_values(network, image, torch.tensor([0.2], dtype=torch.float64), "linf")
    corners = torch.stack([image[0] + 0.2 * torch.tensor(signs).view(1, 2, 2) for signs in product((-1, 1), repeat=4)])
    hidden = model[1](corners.flatten(1))
    box = bounds.intervals[2]
    # Each unit alone is linear, so its bounds are bounds at corners, exactly.
    assert torch.allclose(hidden.amax(0), (box.center + box.radius)[0], atol=1e-12)
    assert torch.allclose(hidden.amin(0), (box.center - box.radius)[0], atol=1e-12)
    logits = model(corners)
    assert bool(((logits[:, :1] - logits[:, 1:]) >= bound_margins(network, bounds, label)).all())
