"""Each replaced operation against PyTorch's own: values, first and second derivatives, by numbers too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdiga.gradients.double_backward import attention, fast_double_backward
from kdiga.model_state import seeded

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

Case = tuple[Callable[..., Tensor], list[tuple[int, ...]]]


def conv(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs, **options)


def norm(training: bool, statistics: bool = True) -> Callable[..., Tensor]:
    def run(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        mean, var = torch.full((x.shape[1],), 0.3).to(x), torch.linspace(0.5, 1.5, x.shape[1]).to(x)
        running = (mean, var) if statistics else (None, None)
        return F.batch_norm(x, *running, weight, bias, training, 0.1, 1e-5)

    return run


def masked(**options: object) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)  # pyright: ignore[reportArgumentType]


LOWER = torch.ones(5, 5, dtype=torch.bool).tril()
WITHOUT_FIRST = LOWER.tril(-1)  # the first query attends to nothing
BIAS = torch.linspace(-1, 1, 2 * 2 * 5 * 5, dtype=torch.float64).view(2, 2, 5, 5)
IMAGE, ROWS = (2, 4, 5, 5), (3, 2, 6)
QKV = [(2, 2, 5, 3)] * 3
OPERATIONS: dict[str, Case] = {
    "conv2d": (F.conv2d, [IMAGE, (3, 4, 3, 3), (3,)]),
    "conv2d without bias": (F.conv2d, [IMAGE, (3, 4, 3, 3)]),
    "conv2d stride 2": (conv(F.conv2d, stride=2, padding=1), [IMAGE, (3, 4, 3, 3), (3,)]),
    "conv2d 1x1 stride 2": (conv(F.conv2d, stride=2), [IMAGE, (3, 4, 1, 1)]),
    "conv2d unequal": (conv(F.conv2d, stride=(1, 2), padding=(2, 0), dilation=(2, 1)), [IMAGE, (3, 4, 3, 2)]),
    "conv2d depthwise": (conv(F.conv2d, groups=4, padding=1), [IMAGE, (4, 1, 3, 3), (4,)]),
    "conv2d groups": (conv(F.conv2d, groups=2, padding="same"), [IMAGE, (6, 2, 3, 3)]),
    "conv2d same, uneven": (conv(F.conv2d, padding="same"), [IMAGE, (3, 4, 2, 2)]),
    "conv2d valid": (conv(F.conv2d, padding="valid"), [IMAGE, (3, 4, 2, 2)]),
    "conv2d one image": (F.conv2d, [(4, 5, 5), (3, 4, 3, 3)]),
    "conv1d": (conv(F.conv1d, padding=1), [ROWS, (4, 2, 3), (4,)]),
    "conv3d": (conv(F.conv3d, padding=1), [(1, 2, 3, 3, 3), (2, 2, 2, 2, 2)]),
    "conv_transpose1d": (conv(F.conv_transpose1d, stride=2), [ROWS, (2, 3, 3), (3,)]),
    "conv_transpose2d": (conv(F.conv_transpose2d, stride=2, output_padding=1, groups=2), [IMAGE, (4, 2, 3, 3)]),
    "batch norm, train": (norm(True), [IMAGE, (4,), (4,)]),
    "batch norm, train, without weight": (norm(True), [IMAGE]),
    "batch norm, train, without statistics": (norm(True, statistics=False), [IMAGE, (4,), (4,)]),
    "batch norm, train, 1d": (norm(True), [ROWS, (2,), (2,)]),
    "batch norm, train, rows": (norm(True), [(6, 3), (3,), (3,)]),
    "batch norm, eval": (norm(False), [IMAGE, (4,), (4,)]),
    "batch norm, eval, without weight": (norm(False), [IMAGE]),
    "layer norm": (lambda x, w, b: F.layer_norm(x, (6,), w, b), [ROWS, (6,), (6,)]),
    "layer norm, without bias": (lambda x, w: F.layer_norm(x, (6,), w), [ROWS, (6,)]),
    "layer norm, without weight": (lambda x: F.layer_norm(x, (2, 6)), [ROWS]),
    "layer norm, two dimensions": (lambda x, w, b: F.layer_norm(x, (2, 6), w, b), [ROWS, (2, 6), (2, 6)]),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [IMAGE, (4,), (4,)]),
    "group norm, without weight": (lambda x: F.group_norm(x, 4), [IMAGE]),
    "group norm, rows": (lambda x, w, b: F.group_norm(x, 2, w, b), [(3, 6), (6,), (6,)]),
    "group norm, 1d": (lambda x, w, b: F.group_norm(x, 2, w, b), [(3, 4, 2), (4,), (4,)]),
    "silu": (F.silu, [IMAGE]),
    "silu in place": (lambda x: F.silu(x * 1, inplace=True), [IMAGE]),
    "gelu": (F.gelu, [IMAGE]),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), [IMAGE]),
    "hardswish": (F.hardswish, [IMAGE]),
    "hardswish in place": (lambda x: F.hardswish(x * 1, inplace=True), [IMAGE]),
    "relu6": (lambda x: F.relu6(3 * x), [IMAGE]),
    "relu6 in place": (lambda x: F.relu6(3 * x, inplace=True), [IMAGE]),
    "hardtanh": (F.hardtanh, [IMAGE]),
    "silu before a convolution": (lambda x, w: F.conv2d(F.silu(x), w), [IMAGE, (3, 4, 2, 2)]),
    "silu in place before a convolution": (
        lambda x, w: F.conv2d(F.silu(x * 1, inplace=True), w),
        [IMAGE, (3, 4, 2, 2)],
    ),
    "silu changed before a convolution": (lambda x, w: F.conv2d(F.silu(x).mul_(x), w), [IMAGE, (3, 4, 2, 2)]),
    "batch norm and gelu": (lambda x, w: F.conv2d(F.gelu(norm(True)(x)), w), [IMAGE, (3, 4, 2, 2)]),
    "hardsigmoid": (F.hardsigmoid, [IMAGE]),
    "attention": (masked(), QKV),
    "attention, causal": (masked(is_causal=True), QKV),
    "attention, scale": (masked(scale=0.3), QKV),
    "attention, boolean mask": (masked(attn_mask=LOWER), QKV),
    "attention, mask of one dimension": (masked(attn_mask=LOWER[3]), QKV),
    "attention, rows without keys": (masked(attn_mask=WITHOUT_FIRST), QKV),
    "attention, mask of each example": (masked(attn_mask=BIAS), QKV),
    "attention, other keys": (masked(), [(2, 2, 5, 3), (2, 2, 4, 3), (2, 2, 4, 3)]),
    "attention, other values": (masked(), [(2, 2, 5, 3), (2, 2, 5, 3), (2, 2, 5, 2)]),
    "attention, three dimensions": (masked(), [(2, 5, 3)] * 3),
}
SECOND_IN_PYTORCH = {"hardswish", "hardswish in place", "hardsigmoid"}
"""Operations for which PyTorch has no second derivative."""


def inputs_of(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64, seed: int = 1) -> list[Tensor]:
    with seeded(seed):
        return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def replaced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        with fast_double_backward():
            return function(*inputs)

    return run


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The value, all first derivatives, and all second derivatives along random directions."""
    with sdpa_kernel(SDPBackend.MATH):
        y = function(*inputs)
    with seeded(2):
        gy = torch.randn(y.shape, dtype=y.dtype).requires_grad_()
        first = torch.autograd.grad(y, inputs, gy, create_graph=True)
        along = [torch.randn(one.shape, dtype=one.dtype) for one in first]
    second = torch.autograd.grad(first, [gy, *inputs], along, allow_unused=True)
    zeros = [torch.zeros_like(like) for like in (gy, *inputs)]
    return [y, *first, *(zero if one is None else one for zero, one in zip(zeros, second, strict=True))]


@pytest.mark.parametrize("name", OPERATIONS)
def test_first_and_second_derivatives_match_differences(name):
    function, shapes = OPERATIONS[name]
    inputs = inputs_of(shapes)
    assert gradcheck(replaced(function), inputs, fast_mode=True)
    assert gradgradcheck(replaced(function), inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in SECOND_IN_PYTORCH])
def test_derivatives_are_those_of_pytorch(name, dtype):
    function, shapes = OPERATIONS[name]
    if name == "attention, mask of each example":
        function = masked(attn_mask=BIAS.to(dtype))
    inputs = inputs_of(shapes, dtype)
    for found, expected in zip(derivatives(replaced(function), inputs), derivatives(function, inputs), strict=True):
        assert found.dtype == expected.dtype
        tolerance = (1e-10 if dtype == torch.float64 else 1e-5) * (1 + expected.detach().abs().max().item())
        assert (found - expected).abs().max().item() <= tolerance


@pytest.mark.parametrize("elements", [40, 120])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("attention")])
def test_attention_in_blocks_is_attention_at_once(name, elements, monkeypatch):
    function, shapes = OPERATIONS[name]
    inputs = inputs_of(shapes)
    whole = derivatives(replaced(function), inputs)
    monkeypatch.setattr(attention, "BLOCK_ELEMENTS", elements)
    for found, expected in zip(derivatives(replaced(function), inputs), whole, strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("options", [{"dropout_p": 0.5}, {"attn_mask": BIAS.clone().requires_grad_()}])
def test_attention_with_dropout_or_a_learned_mask_is_pytorchs(options):
    found = list[list[Tensor]]()
    for function in (replaced(masked(**options)), masked(**options)):
        with seeded(5):
            found.append(derivatives(function, inputs_of(QKV)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
