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
