"""Whole networks: an exact step under ``fast_double_backward`` is the step of PyTorch's own double backprop."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import kdiga
from kdiga.gradients.double_backward import fast_double_backward, pytorch_double_backward
from kdiga.gradients.double_backward.autograd_tools import THIRD_DERIVATIVE
from kdiga.model_state import seeded
from kdiga.models import available_models

TIMM = {
    "mobilenetv3_small_050": {},
    "lcnet_035": {},
    "efficientnet_lite0": {},
    "convnext_atto": {},
    "deit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2, "qk_norm": True},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 24,
        "depths": (2, 2),
        "num_heads": (2, 2),
    },
    "resnetv2_50": {"layers": (1, 1, 1, 1), "channels": (32, 32, 64, 64), "stem_chs": 16},
    "regnety_002": {},
    "ghostnet_050": {},
    "resnet10t": {},
}
NO_SECOND_IN_PYTORCH = {"mobilenetv3_small_050", "lcnet_035", "ghostnet_050"}


def aligned_step(model: nn.Module, fast: bool, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Loss, parameter gradients and buffers after cross-entropy plus an alignment with a fixed gradient."""
    with seeded(3):
        target = torch.randn(images.shape, dtype=images.dtype)
        inputs = images.detach().requires_grad_()
        with fast_double_backward() if fast else pytorch_double_backward():
            logits = model(inputs)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), inputs, create_graph=True)
        loss = (gradient - target).flatten(1).norm(dim=1).mean() + F.cross_entropy(logits, labels)
        loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]


def examples(count: int, size: int) -> tuple[Tensor, Tensor]:
    with seeded(4):
        return torch.rand(count, 3, size, size, dtype=torch.float64), torch.arange(count) % 3


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).double().norm().item() <= tolerance * (1 + other.double().norm().item())


def assert_same_step(model: nn.Module, size: int = 32) -> None:
    model, batch = model.double(), examples(4, size)
    assert_equal(*(aligned_step(copy.deepcopy(model), fast, *batch) for fast in (True, False)))


@pytest.mark.parametrize("name", sorted(set(available_models()) - {"wrn-34-10"}))
def test_built_in_architectures(name):
    try:
        with seeded(1):
            model = kdiga.load_model(name)
    except kdiga.InputError as error:
        pytest.skip(str(error))
    if sum(parameter.numel() for parameter in model.parameters()) > 4e6:
        pytest.skip("its operations are those of a smaller one")
    assert_same_step(model.train())


@pytest.mark.parametrize("name", TIMM)
def test_architectures_of_timm(name, monkeypatch):
    timm = pytest.importorskip("timm")
    with seeded(1):
        model = timm.create_model(name, num_classes=5, **TIMM[name]).train()
    # Batch norm over few values is so badly conditioned that rounding alone moves the derivatives by 1e-8.
    count, size = (4, 32) if "img_size" in TIMM[name] else (8, 64)
    model = model.double()
    found = aligned_step(copy.deepcopy(model), True, *examples(count, size))
    if name in NO_SECOND_IN_PYTORCH:
        with pytest.raises((RuntimeError, NotImplementedError)):
            aligned_step(copy.deepcopy(model), False, *examples(count, size))
        monkeypatch.setattr(F, "hardswish", lambda x, inplace=False: x * F.relu6(x + 3) / 6)
        monkeypatch.setattr(F, "hardsigmoid", lambda x, inplace=False: F.relu6(x + 3) / 6)
    assert_equal(found, aligned_step(model, False, *examples(count, size)), tolerance=1e-6)


class Logits(nn.Module):
    """A model of transformers, as images to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def test_a_vision_transformer_of_transformers():
    transformers = pytest.importorskip("transformers")
    with seeded(1):
        config = transformers.ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=5,
        )
        assert_same_step(Logits(transformers.ViTForImageClassification(config)).train())


def test_mobilenetv3_trains_by_exact_kdiga():
    timm = pytest.importorskip("timm")
    with seeded(1):
        student = timm.create_model("mobilenetv3_small_050", num_classes=10)
        teacher = kdiga.load_model("cnn-8")
        batches = [(torch.rand(8, 3, 32, 32), torch.arange(8)) for _ in range(3)]
        before = copy.deepcopy(student.state_dict())
    threat = kdiga.ThreatModel("linf", 8 / 255)
    result = kdiga.distill(
        student, teacher, batches, method="kdiga", threat=threat, epochs=2, on_warning=lambda _: None
    )
    assert result.choices["route"]["chosen"] == "exact"
    assert any(not torch.equal(value, before[key]) for key, value in student.state_dict().items())


class Attending(nn.Module):
    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 8), nn.Linear(8, 3)
        self.attend, self.norm, self.reentrant = (
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.LayerNorm(8),
            reentrant,
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.flatten(2).transpose(1, 2).reshape(len(images), -1, 12))
        if self.reentrant is None:
            tokens = self.block(tokens)
        else:
            tokens = checkpoint(self.block, tokens, use_reentrant=self.reentrant)
        return self.head(tokens.mean(1))  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]

    def block(self, tokens: Tensor) -> Tensor:
        return tokens + F.silu(self.attend(*[self.norm(tokens)] * 3, need_weights=False)[0])


def test_multi_head_attention_of_pytorch():
    with seeded(1):
        assert_same_step(Attending(), size=4)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_checkpoints_compute_again_under_the_same_operations(reentrant, fast):
    with seeded(1):
        plain = Attending().double()
    images, labels = examples(3, 4)
    saving = copy.deepcopy(plain)
    saving.reentrant = reentrant
    assert_equal(*(aligned_step(model, fast, images, labels) for model in (saving, plain)))


def test_a_third_derivative_raises():
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.SiLU(), nn.Flatten()).double()
    inputs = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    with fast_double_backward():
        total = model(inputs).square().sum()
    (first,) = torch.autograd.grad(total, inputs, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=THIRD_DERIVATIVE[:40]):
        second.sum().backward()


def test_the_input_gradient_forms_no_weight_gradient(monkeypatch):
    from kdiga.gradients.double_backward import convolution

    masks, real = [], convolution._derivatives
    monkeypatch.setattr(convolution, "_derivatives", lambda *a: masks.append(a[-1]) or real(*a))
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.Flatten())
    inputs = torch.rand(2, 1, 4, 4, requires_grad=True)
    with fast_double_backward():
        total = model(inputs).square().sum()
    (gradient,) = torch.autograd.grad(total, inputs, create_graph=True)
    assert not any(weight or bias for _, weight, bias in masks)
    gradient.sum().backward()
    assert any(weight for _, weight, _ in masks)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_is_kept(layout):
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 4, 3))
        model = model.to(memory_format=layout)
        images = torch.rand(2, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    with fast_double_backward():
        out = model(images)
    (gradient,) = torch.autograd.grad(out.square().sum(), images, create_graph=True)
    assert out.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_pytorch_does(dtype):
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Flatten(), nn.Linear(288, 3))
        images = torch.rand(4, 3, 8, 8)
    found = list[Tensor]()
    for context in (fast_double_backward, pytorch_double_backward):
        with torch.autocast("cpu", dtype), context():
            found.append(copy.deepcopy(model)(images.requires_grad_()))
    assert found[0].dtype == found[1].dtype == dtype
    assert torch.allclose(*found, atol=0.02)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_norms_in_float32_under_autocast(norm, bias):
    images, found = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), list[list[Tensor]]()
    for context in (fast_double_backward, pytorch_double_backward):
        with seeded(1):
            last = nn.LayerNorm((8, 6, 6), bias=bias) if norm == "layer" else nn.GroupNorm(2, 8, affine=bias)
            model = nn.Sequential(nn.Conv2d(3, 8, 3), last, nn.SiLU())
        x = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), context():
            y = model(x).float()
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(list(torch.autograd.grad(gradient.square().sum() + y.sum(), list(model.parameters()))))
    assert_equal(*found, tolerance=0.03)


def test_nothing_is_replaced_without_a_graph():
    model: Callable[[Tensor], Tensor] = nn.Conv2d(1, 2, 3)
    images = torch.rand(1, 1, 4, 4)
    with fast_double_backward():
        assert type(model(images).grad_fn).__name__ == "ConvolutionBackward0"
        with torch.no_grad():
            assert model(images.requires_grad_()).grad_fn is None
    assert type(model(images).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize("name", ["kdiga", "igam", "kdiga-ard"])
def test_a_short_training_is_that_of_pytorchs_second_derivatives(name):
    with seeded(1):
        teacher = kdiga.load_model("cnn-8", in_channels=1, image_size=8)
        student = kdiga.load_model("resnet8", in_channels=1, image_size=8, activation="silu")
        batches = [(torch.rand(16, 1, 8, 8), torch.arange(16) % 10) for _ in range(3)]
    weights = list[dict[str, Tensor]]()
    for route in ("exact", "exact-pytorch"):
        trained = copy.deepcopy(student)
        threat = kdiga.ThreatModel("linf", 0.1)
        kdiga.distill(
            trained,
            teacher,
            batches,
            method=name,
            threat=threat,
            epochs=2,
            route=route,
            lr=0.01,
            on_warning=lambda _: None,
        )
        weights.append(trained.state_dict())
    for key, value in weights[0].items():
        assert torch.allclose(value.double(), weights[1][key].double(), atol=2e-4), key
