"""What CUDA's kernels demand of their arguments, and the CPU's do not: asserted here without a GPU.

Fake tensors on CUDA have the dtypes and shapes that CUDA's kernels return, and run forward passes only.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kdiga.gradients.double_backward import fast_double_backward
from tests.gradients.double_backward.test_operations import OPERATIONS

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
WITH_CPU_TENSORS = {
    name for name in OPERATIONS if name.startswith("attention") and ("mask" in name or "without keys" in name)
}


class Calls(TorchDispatchMode):
    """Collects the arguments of one operation."""

    def __init__(self, name):
        super().__init__()
        self.name, self.arguments = name, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ == self.name:
            self.arguments.append(args)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_sums_of_batch_norm_have_a_weight(training, layout):
    """Without one CUDA's kernel raises an error, or returns sums of size 0 in channels_last."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU()).to(memory_format=layout).train(training)
    images = torch.rand(4, 3, 8, 8).to(memory_format=layout).requires_grad_()
    with Calls("native_batch_norm_backward") as calls:
        with fast_double_backward():
            loss = model(images).logsumexp(1).sum()
        (slope,) = torch.autograd.grad(loss, images, create_graph=True)
        slope.square().sum().backward()
    assert len(calls.arguments) >= 3
    assert all(isinstance(arguments[2], Tensor) for arguments in calls.arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_statistics_of_batch_norm_are_float32(dtype, training):
    with FakeTensorMode():
        model = nn.BatchNorm2d(4, device="cuda", dtype=dtype).train(training)
        images = torch.rand(2, 4, 5, 5, device="cuda", dtype=dtype, requires_grad=True)
        with fast_double_backward():
            _, _, mean, inv = model(images).grad_fn.saved_tensors
    assert mean.dtype == inv.dtype == torch.float32


@pytest.fixture
def autocast():
    """Autocast of CUDA, which ``torch.autocast`` enables only where there is a GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.clear_autocast_cache()


def results(name, dtype):
    """The result of an operation on CUDA: of this package, and of PyTorch."""
    function, shapes = OPERATIONS[name]
    with FakeTensorMode():
        inputs = [torch.empty(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]
        with fast_double_backward():
            found = function(*inputs)
        return found, function(*inputs)


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in WITH_CPU_TENSORS])
def test_autocast_casts_as_on_cuda(name, dtype):
    found, expected = results(name, dtype)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith(("layer norm", "group norm"))])
def test_arguments_of_row_norms_have_one_dtype_on_cuda(name):
    """Input, weight and statistics; the CPU's kernels also take several."""
    found, _ = results(name, torch.bfloat16)
    assert {one.dtype for one in found.grad_fn.saved_tensors} == {torch.float32}


def test_group_norm_is_contiguous_on_cuda():
    """CUDA's kernels copy images in channels_last, each of them again."""
    with FakeTensorMode():
        images = torch.empty(2, 4, 5, 5, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
        with fast_double_backward():
            found = nn.GroupNorm(2, 4, device="cuda")(images)
    assert found.grad_fn.saved_tensors[0].is_contiguous()
