"""Models as people bring them: what they return, what they do to their input, and what they change in a pass."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import kdiga
from kdiga.errors import InputError, KdigaWarning
from kdiga.gradients.obstacles import compiled_part
from kdiga.model_state import copied

pytestmark = pytest.mark.filterwarnings("ignore:training collapsed")
IMAGES, LABELS = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
QUICK = {"epochs": 1, "batch_size": 16, "validation_steps": 1, "validation_share": 0.25, "stop_at_chance": False}
Pair = namedtuple("Pair", ["logits", "aux"])


@dataclass
class Output:
    logits: torch.Tensor


PACKS = {
    "dict": lambda z: {"logits": z, "loss": None},
    "only entry": lambda z: {"out": z},
    "pair": lambda z: (z, 2 * z),
    "named tuple": lambda z: Pair(z, 2 * z),
    "named second": lambda z: {"aux": 2 * z, "logits": z},
    "dataclass": Output,
}


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.SiLU(), nn.Linear(8, 4))


class Packed(nn.Module):
    def __init__(self, pack, seed=0):
        super().__init__()
        self.net, self.pack = net(seed), pack

    def forward(self, images):
        return self.pack(self.net(images))


class InPlace(nn.Module):
    """Normalises its input in place, as torchvision's normalize(inplace=True)."""

    def __init__(self, in_place=True):
        super().__init__()
        self.in_place, self.net = in_place, net()

    def forward(self, images):
        return self.net(images.sub_(0.4).div_(0.2) if self.in_place else (images - 0.4) / 0.2)


@pytest.mark.parametrize("pack", PACKS.values(), ids=list(PACKS))
@pytest.mark.parametrize("route", ["exact", "finite-difference"])
def test_what_a_model_returns_does_not_matter(pack, route):
    plain, teacher = net(), net(1)
    assert torch.equal(kdiga.input_gradient(Packed(pack), IMAGES, LABELS), kdiga.input_gradient(plain, IMAGES, LABELS))
    term = kdiga.align(Packed(pack), Packed(pack, 1), IMAGES, LABELS, route=route)
    assert torch.equal(term, kdiga.align(plain, teacher, IMAGES, LABELS, route=route))
    found = kdiga.evaluate(Packed(pack), [(IMAGES, LABELS)], eps=0.05, attacks=["pgd-3"])
    assert found["pgd-3"] == kdiga.evaluate(plain, [(IMAGES, LABELS)], eps=0.05, attacks=["pgd-3"])["pgd-3"]


@pytest.mark.parametrize("method", ["kdiga", "tangent", "trades"])
def test_what_a_model_returns_does_not_matter_to_training(method):
    def trained(student, teacher):
        teacher = teacher if method != "trades" else None
        return kdiga.distill(student, teacher, (IMAGES, LABELS), method=method, **QUICK).last_state.values()

    found = trained(Packed(PACKS["dict"]), Packed(PACKS["pair"], 1))
    assert all(map(torch.equal, found, trained(net(), net(1))))


def test_an_output_by_name():
    other = kdiga.NamedOutput(Packed(lambda z: {"coarse": 2 * z, "fine": z}), "fine")
    assert torch.equal(kdiga.input_gradient(other, IMAGES, LABELS), kdiga.input_gradient(net(), IMAGES, LABELS))
    second = kdiga.NamedOutput(Packed(lambda z: (2 * z, z)), 1)
    assert torch.equal(kdiga.input_gradient(second, IMAGES, LABELS), kdiga.input_gradient(net(), IMAGES, LABELS))
    with pytest.raises(InputError, match="returned dict with 'coarse', 'fine', and no tensor 'logits' in it"):
        kdiga.input_gradient(other.model, IMAGES, LABELS)


@pytest.mark.parametrize("route", ["exact", "finite-difference", "one-sided"])
def test_a_model_may_write_on_its_images(route):
    images = IMAGES.clone()
    for in_place in (True, False):
        student = InPlace(in_place)
        student.zero_grad()
        kdiga.align(student, InPlace(in_place).eval(), images, LABELS.flip(0) * 0, route=route).backward()
    gradients = []
    for in_place in (True, False):
        student = InPlace(in_place)
        kdiga.align(student, net(3), images, LABELS, route=route).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
        kdiga.evaluate(student, [(images, LABELS)], eps=0.05, attacks=["pgd-2"])
        kdiga.input_gradient(student, images, LABELS)
        kdiga.distill(net(), InPlace(in_place), [(images, LABELS)], method="kd", epochs=1, stop_at_chance=False)
        assert torch.equal(images, IMAGES)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)


def moving(wrap):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    one, two = (wrap(layer) for layer in layers)
    model = nn.Sequential(one, nn.SiLU(), two, nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    with torch.no_grad():  # as after some optimiser steps: the singular vectors lag behind the weights
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
    return model


class Running(nn.Module):
    """A normalisation by a running statistic, which it replaces in each pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x):
        if self.training:
            self.scale = 0.5 * self.scale + 0.5 * 0.3
        return x / self.scale


class LowRank(nn.Module):
    """A frozen layer with a trained update of low rank, as in LoRA."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Conv2d(layer.in_channels, 2, 3, padding=1, bias=False)
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


WRAPS = {
    "spectral norm": spectral_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "running": lambda layer: nn.Sequential(layer, Running()),
    "weight norm": nn.utils.parametrizations.weight_norm,
    "low rank": LowRank,
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=list(WRAPS))
def test_routes_agree_where_a_pass_changes_the_network(wrap):
    student, teacher, found = moving(wrap).train(), net(1), {}
    for route in ("exact", "finite-difference", "one-sided"):
        model = copy.deepcopy(student)
        kdiga.align(model, teacher, IMAGES, LABELS, route=route).backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found[route] = torch.cat([parameter.grad.flatten() for parameter in trained])
        assert len(trained) == sum(parameter.grad is not None for parameter in model.parameters())
        once = copy.deepcopy(student)
        once(IMAGES)
        # One step moves the buffers as one pass does.
        assert all(torch.equal(one, two) for one, two in zip(model.buffers(), once.buffers(), strict=True))
    for route in ("finite-difference", "one-sided"):
        assert (found[route] - found["exact"]).norm() / found["exact"].norm() < 0.01, route


def test_the_average_of_a_teacher_teaches_as_itself():
    terms = [kdiga.align(net(), teacher, IMAGES, LABELS) for teacher in (net(1), AveragedModel(net(1)))]
    assert torch.equal(*terms)


def test_an_input_gradient_leaves_every_buffer():
    model = moving(spectral_norm).train()
    before = [buffer.clone() for buffer in model.buffers()]
    kdiga.input_gradient(model, IMAGES, LABELS)
    assert all(map(torch.equal, before, model.buffers()))


class OwnRandom(nn.Module):
    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(0)

    def forward(self, x):
        return x * torch.from_numpy(self.random.integers(0, 2, x.shape)).to(x)


def test_own_random_numbers_are_refused_by_routes_of_differences():
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), OwnRandom(), nn.SiLU(), nn.Linear(32, 4))
    for route in ("finite-difference", "one-sided"):
        with pytest.raises(InputError, match="it draws random numbers of NumPy or of an own"):
            kdiga.align(student, net(1), IMAGES, LABELS, route=route)
    with pytest.raises(InputError, match="it draws random numbers of NumPy or of an own"):
        kdiga.distill(student, net(1), (IMAGES, LABELS), route="one-sided", **QUICK)


def test_dropout_is_no_such_random_number():
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Dropout(0.5), nn.SiLU(), nn.Linear(32, 4))
    kdiga.align(student, net(1), IMAGES, LABELS, route="one-sided").backward()


def test_probabilities_are_noticed():
    soft = nn.Sequential(net(), nn.Softmax(1))
    with pytest.warns(KdigaWarning, match="the student returns probabilities"):
        kdiga.align(soft, net(1), IMAGES, LABELS)
    with pytest.warns(KdigaWarning, match="the teacher returns probabilities"):
        kdiga.align(net(1), soft, IMAGES, LABELS)
    with pytest.warns(KdigaWarning, match="the teacher returns probabilities"):
        kdiga.distill(net(1), nn.Sequential(net(), nn.Softmax(1)), (IMAGES, LABELS), method="kd", **QUICK)
    kdiga.align(soft, net(1), IMAGES, LABELS)  # once


def test_one_module_is_not_both_models():
    model = net()
    for call in (
        lambda: kdiga.align(model, model, IMAGES, LABELS),
        lambda: kdiga.distill(model, model, (IMAGES, LABELS), **QUICK),
    ):
        with pytest.raises(InputError, match="the student and the teacher are the same module"):
            call()


class Keeps(nn.Module):
    """Keeps its features, and was run before: deepcopy refuses tensors with a graph."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.SiLU()), nn.Linear(8, 4)
        self(IMAGES[:2])

    def forward(self, images):
        self.features = self.body(images)
        return self.head(self.features)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_students_that_cannot_be_copied_plainly(ema):
    def old_weight_norm():
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(192, 8)), nn.SiLU(), nn.Linear(8, 4))

    for build in (Keeps, old_weight_norm):
        result = kdiga.distill(build(), net(1), (IMAGES, LABELS), ema=ema, **QUICK)
        assert result.choices["route"]["chosen"] == "exact"


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.lock = net(), threading.Lock()

    def forward(self, images):
        return self.net(images)


def test_a_student_that_nothing_can_copy():
    with pytest.raises(InputError, match="a model could not be copied"):
        kdiga.distill(Locked(), net(1), (IMAGES, LABELS), **QUICK)


def test_a_last_batch_of_one_image():
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    with pytest.raises(InputError, match=r"the batch held one image, .* drop_last=True"):
        kdiga.align(student, net(1), IMAGES[:1], LABELS[:1])
    batches = [(IMAGES[:16], LABELS[:16]), (IMAGES[16:17], LABELS[16:17])]
    with pytest.raises(InputError, match=r"the batch held one image, .* drop_last=True"):
        kdiga.distill(student, net(1), batches, method="kd", epochs=1)


BATCHES = {
    "dict": {"image": IMAGES, "label": LABELS},
    "Hugging Face's": {"pixel_values": IMAGES, "labels": LABELS, "idx": LABELS},
    "triple": (IMAGES, LABELS, LABELS),
    "list": [IMAGES, LABELS],
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=list(BATCHES))
def test_forms_of_a_batch(batch):
    assert (
        kdiga.evaluate(net(), [batch], attacks=["fgsm"])["fgsm"]
        == kdiga.evaluate(net(), iter([(IMAGES, LABELS)]), attacks=["fgsm"])["fgsm"]
    )
    found = kdiga.distill(net(), None, [batch], method="ce", epochs=1, stop_at_chance=False).last_state
    wanted = kdiga.distill(net(), None, [(IMAGES, LABELS)], method="ce", epochs=1, stop_at_chance=False).last_state
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


BATCH = "a batch was an? .*; it must be a pair of images and labels, or a dict"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *((data, BATCH) for data in ((IMAGES, LABELS), [{"picture": IMAGES}], [(IMAGES,)])),
        (3, "batches was 3; it must be a DataSet, an ImageSet, a FileSet or an iterable of batches"),
    ],
    ids=["tensors", "other keys", "images", "number"],
)
def test_other_forms_are_refused(data, said):
    with pytest.raises(InputError, match=said):
        kdiga.evaluate(net(), data)


def test_pixels_that_rounding_moved_out_of_range():
    images = IMAGES.clone()
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 1.0000002, -1e-7
    kdiga.align(net(), net(1), images, LABELS)
    seen = []
    model = net()
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    kdiga.evaluate(model, [(images, LABELS)], attacks=["clean"])
    assert all(one.min() >= 0 and one.max() <= 1 for one in seen)
    images[0, 0, 0, 0] = 1.0001
    with pytest.raises(InputError, match=r"images had pixels in \[-1e-07, 1.0001\]"):
        kdiga.align(net(), net(1), images, LABELS)


def test_evaluate_warns_of_worthless_accuracies():
    random = nn.Sequential(nn.Flatten(), OwnRandom(), nn.Linear(192, 4))
    with pytest.warns(KdigaWarning, match="deterministic: "):
        found = kdiga.evaluate(random, [(IMAGES, LABELS)], attacks=["clean"])
    assert found.findings[0].name == "deterministic"
    with pytest.warns(KdigaWarning, match="logits: the model returns probabilities"):
        kdiga.evaluate(nn.Sequential(net(), nn.Softmax(1)), [(IMAGES, LABELS)], attacks=["clean"])
    with warnings.catch_warnings(action="error"):
        kdiga.evaluate(net(), [(IMAGES, LABELS)], attacks=["clean"])


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.reentrant = nn.Linear(192, 8), nn.Linear(8, 4), reentrant

    def forward(self, images):
        body = nn.Sequential(self.body, nn.SiLU())
        return self.head(checkpoint(body, images.flatten(1), use_reentrant=self.reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_activation_checkpoints():
    found = []
    for reentrant, route in ((True, "exact"), (False, "exact"), (False, "finite-difference"), (False, "one-sided")):
        student = Checkpointed(reentrant)
        kdiga.align(student, net(1), IMAGES, LABELS, route=route).backward()
        found.append(student.body.weight.grad)
    assert all((one - found[0]).norm() < 0.02 * found[0].norm() for one in found)
    student = Checkpointed(reentrant=True)
    for call in (
        lambda: kdiga.align(student, net(1), IMAGES, LABELS, route="one-sided"),
        lambda: kdiga.distill(student, net(1), (IMAGES, LABELS), route="one-sided", **QUICK),
        lambda: kdiga.evaluate(student, [(IMAGES, LABELS)], attacks=["fgsm"]),
    ):
        with pytest.raises(InputError, match="use_reentrant=False"):
            call()


def test_a_copy_of_a_compiled_student_is_compiled():
    """Otherwise the trial of the route shows what the student cannot do."""
    student = net()
    student[1].compile()
    assert compiled_part(student) == compiled_part(copied(student)) == "1"
    assert compiled_part(copied(net())) is None


@pytest.mark.parametrize("route", ["exact", "finite-difference"])
@pytest.mark.parametrize(("student_type", "teacher_type"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_models_of_another_type_than_their_images(student_type, teacher_type, route):
    student, teacher = net().to(getattr(torch, student_type)), net(1).to(getattr(torch, teacher_type))
    plain = net()
    gradients = []
    for one, other in ((student, teacher), (plain, net(1))):
        term = kdiga.align(one, other, IMAGES, LABELS, route=route)
        term.backward()
        gradients.append(torch.cat([p.grad.flatten().float() for p in one.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*gradients, dim=0) > (0.99 if route == "exact" else 0.95)
    assert student[1].weight.grad.dtype == student[1].weight.dtype
    distiller = kdiga.Distiller(student, teacher, method="kd", total_steps=1)
    assert distiller(IMAGES, LABELS).dtype == torch.float32
    assert kdiga.evaluate(teacher, [(IMAGES, LABELS)], attacks=["clean", "pgd-2"]).examples == len(IMAGES)


class PrefersFirst(nn.Module):
    """Sees which quarter is brightest, and prefers the first one: less so where normalisation spreads the pixels."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 2).mean(1).flatten(1) + torch.tensor([0.3, 0, 0, 0])


def test_a_teacher_that_wants_normalised_images_is_noticed():
    images, labels = torch.full((64, 3, 8, 8), 0.2), torch.arange(64) % 4
    for image, label, brighter in zip(images, labels.tolist(), torch.linspace(0.1, 0.5, 64), strict=True):
        image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += brighter
    with pytest.warns(
        KdigaWarning, match="the teacher is right on 6.* and on 100.0 % with .*: its preprocessing is wrong"
    ):
        kdiga.Distiller(net(), PrefersFirst(), method="kd", total_steps=1)(images, labels)


class Constant(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4] * 0 + torch.tensor([2.0, 0, 0, 0])


@pytest.mark.filterwarnings("default:the teacher is right on")
def test_a_teacher_that_guesses_is_noticed_by_align():
    with pytest.warns(KdigaWarning, match="the teacher is right on 8 of the first 32 images, no better than guessing"):
        kdiga.align(net(), Constant(), IMAGES, LABELS)
